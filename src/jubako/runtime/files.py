"""The files of a sandbox, as callers use them."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Literal, TypeVar, cast

from jubako.errors import FileTooLargeError, GuestFileNotFoundError, InvalidRequestError
from jubako.events import FileTransferred
from jubako.runtime.managed import recordable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from jubako.boundary.contract import FileInfo, WatchEvent
    from jubako.runtime.managed import ManagedSandbox

__all__ = ["AsyncFiles"]

GuestPath = str | PurePosixPath

_T = TypeVar("_T")

_UNBOUNDED: Final = 2**53
_MODE_LIMIT: Final = 0o1777


class AsyncFiles:
    """Files inside. Paths are the sandbox's own; relative ones are below its workspace.

    Failures raise GuestFileError or one of its kinds, which are also FileNotFoundError,
    PermissionError and so on.
    """

    def __init__(self, sandbox: ManagedSandbox) -> None:
        self._sandbox = sandbox

    async def read(self, path: GuestPath, *, limit: int = 64 * 1024 * 1024) -> bytes:
        """Return the whole file. Raises FileTooLargeError when it is longer than ``limit`` bytes."""
        where = guest_path(path)
        with self._sandbox.using("files.read") as instance:
            data = await instance.files.read(where, limit=_positive("limit", limit))
        self._transferred("out", where, len(data))
        return data

    async def read_text(self, path: GuestPath, *, limit: int = 64 * 1024 * 1024) -> str:
        """Return the whole file as UTF-8 text. Raises FileTooLargeError, and ValueError when it isn't text."""
        return (await self.read(path, limit=limit)).decode("utf-8")

    async def stream(self, path: GuestPath, *, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the file in pieces, so that memory stays bounded; FileTooLargeError after ``limit`` bytes."""
        where = guest_path(path)
        total = 0
        with self._sandbox.using("files.stream") as instance:
            bound = _UNBOUNDED if limit is None else _positive("limit", limit)
            async with _closing(instance.files.stream(where, limit=bound)) as pieces:
                async for piece in pieces:
                    total += len(piece)
                    yield piece
        self._transferred("out", where, total)

    async def write(self, path: GuestPath, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write the file (text as UTF-8) under a temporary name, then rename it; makes parent directories."""
        where = guest_path(path)
        content = data.encode() if isinstance(data, str) else data
        with self._sandbox.using("files.write") as instance:
            await instance.files.write(where, content, mode=_mode(mode))
        self._transferred("in", where, len(content))

    async def list(self, path: GuestPath = ".", *, recursive: bool = False, limit: int = 100_000) -> list[FileInfo]:
        """Return the entries of a directory sorted by path; links are shown, not followed.

        Raises FileTooLargeError when there are more than ``limit``.
        """
        where = guest_path(path)
        found: list[FileInfo] = []
        with self._sandbox.using("files.list") as instance:
            async with _closing(instance.files.scan(where, recursive=recursive)) as entries:
                async for entry in entries:
                    if len(found) >= limit:
                        msg = f"{where} has more than {limit} entries"
                        raise FileTooLargeError(msg, hint="pass a larger limit", details={"path": str(where)})
                    found.append(entry)
        return sorted(found, key=lambda entry: entry.path.parts)

    async def stat(self, path: GuestPath) -> FileInfo:
        """Return the entry itself; a symbolic link is not followed. Raises GuestFileNotFoundError."""
        with self._sandbox.using("files.stat") as instance:
            return await instance.files.stat(guest_path(path))

    async def exists(self, path: GuestPath) -> bool:
        """Whether something has that name, a dangling link included."""
        try:
            await self.stat(path)
        except GuestFileNotFoundError:
            return False
        return True

    async def mkdir(self, path: GuestPath, *, mode: int = 0o755, parents: bool = True) -> None:
        """Make a directory; one that exists is fine when ``parents`` is true."""
        with self._sandbox.using("files.mkdir") as instance:
            await instance.files.mkdir(guest_path(path), mode=_mode(mode), parents=parents)

    async def move(self, source: GuestPath, target: GuestPath, *, overwrite: bool = True) -> None:
        """Rename within the sandbox. Raises GuestFileExistsError when ``target`` exists and may not be replaced."""
        with self._sandbox.using("files.move") as instance:
            await instance.files.move(guest_path(source), guest_path(target), overwrite=overwrite)

    async def remove(self, path: GuestPath, *, recursive: bool = False) -> None:
        """Remove a file, link or empty directory; with ``recursive`` a tree, links not followed."""
        with self._sandbox.using("files.remove") as instance:
            await instance.files.remove(guest_path(path), recursive=recursive)

    async def chmod(self, path: GuestPath, mode: int) -> None:
        """Set the permission bits."""
        with self._sandbox.using("files.chmod") as instance:
            await instance.files.chmod(guest_path(path), _mode(mode))

    async def watch(self, path: GuestPath = ".", *, recursive: bool = False) -> AsyncGenerator[WatchEvent, None]:
        """Yield changes below a directory until the generator is closed: use ``contextlib.aclosing``."""
        with self._sandbox.using("files.watch") as instance:
            async with _closing(instance.files.watch(guest_path(path), recursive=recursive)) as events:
                async for event in events:
                    yield event

    def _transferred(self, direction: Literal["in", "out"], path: PurePosixPath, size: int) -> None:
        self._sandbox.emit(FileTransferred(direction=direction, path=recordable(str(path)), size=size))


def _closing(iterator: AsyncIterator[_T]) -> aclosing[AsyncGenerator[_T]]:
    # Drivers yield from generators; leaving one open would leave its stream open inside.
    return aclosing(cast("AsyncGenerator[_T]", iterator))


def guest_path(path: GuestPath) -> PurePosixPath:
    """Return the path when it can name something inside. Raises InvalidRequestError."""
    text = str(path)
    if not text or "\0" in text or len(text.encode("utf-8", "surrogateescape")) > 4096:
        msg = "a path inside is 1 to 4096 bytes without NUL"
        raise InvalidRequestError(msg, details={"path": text[:100]})
    return PurePosixPath(text)


def _mode(mode: int) -> int:
    # setuid and setgid bits do nothing inside, so asking for them is a mistake.
    if not 0 <= mode <= _MODE_LIMIT:
        msg = f"mode {mode:#o} is out of bounds"
        raise InvalidRequestError(msg, hint="use permission bits, 0 to 0o1777")
    return mode


def _positive(name: str, value: int) -> int:
    if value < 0:
        msg = f"{name} is negative"
        raise InvalidRequestError(msg, details={name: value})
    return value
