"""Files inside, as the contract's ``Files``: limits are held here, not in the guest."""

from __future__ import annotations

import errno as errno_module
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

import anyio
from anyio.lowlevel import checkpoint

from jubako.boundary.contract import FileInfo, FileKind, WatchEvent, WatchKind
from jubako.errors import (
    FileTooLargeError,
    GuestFileError,
    GuestFileExistsError,
    GuestFileNotFoundError,
    GuestIsADirectoryError,
    GuestNotADirectoryError,
    GuestPermissionError,
    InstanceLostError,
    InvalidRequestError,
)
from jubako.guest.exchange import Exchange, ReplyExchange
from jubako.guest.requests import ReadExchange, ScanExchange, WatchExchange, WriteExchange
from jubako.guest.text import printable
from jubako.guest.wire import PATH_MAX, EndKind, Field, Fields, Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import PurePosixPath

    from jubako.guest.session import GuestSession

__all__ = ["GuestFiles"]

_ERRORS: Final[dict[int, type[GuestFileError]]] = {
    errno_module.ENOENT: GuestFileNotFoundError,
    errno_module.EEXIST: GuestFileExistsError,
    errno_module.EACCES: GuestPermissionError,
    errno_module.EPERM: GuestPermissionError,
    errno_module.EROFS: GuestPermissionError,
    errno_module.EISDIR: GuestIsADirectoryError,
    errno_module.ENOTDIR: GuestNotADirectoryError,
}
_KINDS: Final = (FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK, FileKind.OTHER)
_CHANGES: Final = (WatchKind.CREATED, WatchKind.MODIFIED, WatchKind.REMOVED, WatchKind.MOVED, WatchKind.LOST)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = -62_135_596_800 * 10**9
_LAST: Final = 253_402_300_799 * 10**9
_MODE: Final = 0o7777
_LENGTH: Final = 2**63 - 1


def _raw(path: PurePosixPath) -> bytes:
    """Return a path for the guest. Raises InvalidRequestError."""
    try:
        raw = os.fsencode(str(path))
    except UnicodeEncodeError as error:
        msg = f"{printable(str(path))} can't be a path"
        raise InvalidRequestError(msg) from error
    if b"\0" in raw or len(raw) > PATH_MAX:
        raise InvalidRequestError("the path holds a NUL character or is over 4096 bytes")
    if not path.is_absolute() and ".." in path.parts:
        msg = f"{printable(str(path))} leaves the workspace; use an absolute path"
        raise InvalidRequestError(msg)
    return raw


def _check_mode(mode: int) -> None:
    if not 0 <= mode <= _MODE:
        msg = f"mode {mode:o} is not a permission mode"
        raise InvalidRequestError(msg)


def _info(path: PurePosixPath, fields: Fields) -> FileInfo:
    kind, size, mode, modified, target = cast("tuple[int, int, int, int, bytes]", fields)
    # Programs can set any time stamp; Python's dates end earlier.
    nanoseconds = min(max(modified, _FIRST), _LAST)
    return FileInfo(
        path=path,
        kind=_KINDS[kind],
        size=size,
        mode=mode,
        modified=_EPOCH + timedelta(microseconds=nanoseconds // 1000),
        target=os.fsdecode(target) if kind == 2 else None,  # a symbolic link
    )


def _raise(path: PurePosixPath, end: tuple[EndKind, int, str]) -> None:
    """Raise what a request's END says, if it is not success."""
    kind, number, text = end
    if kind is EndKind.OK:
        return
    shown = printable(str(path))
    if kind is EndKind.REFUSED:
        msg = f"{shown}: {printable(text)}"
        raise InvalidRequestError(msg, details={"path": shown, "errno": number})
    # The host's own words for the number: the guest's text proves nothing.
    text = os.strerror(number)
    msg = f"{shown}: {text}"
    raise _ERRORS.get(number, GuestFileError)(msg, details={"path": shown, "errno": number}, errno=number)


def _too_large(path: PurePosixPath, limit: int) -> FileTooLargeError:
    shown = printable(str(path))
    return FileTooLargeError(
        f"{shown} is larger than {limit} bytes", details={"path": shown, "limit": limit}, errno=errno_module.EFBIG
    )


class GuestFiles:
    """Files of one sandbox; relative paths are below its workspace."""

    def __init__(self, session: GuestSession) -> None:
        self._session = session

    async def _call(self, request: Message, path: PurePosixPath, fields: Sequence[Field]) -> None:
        _raise(path, await self._session.call(request, fields))

    async def read(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> bytes:
        """Return the file from ``offset``. Raises FileTooLargeError if that is over ``limit`` bytes."""
        parts = [part async for part in self.stream(path, limit=limit, offset=offset)]
        return b"".join(parts)

    async def stream(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the file in chunks; raises FileTooLargeError before the first one if it is too large."""
        if limit < 0 or not 0 <= offset <= _LENGTH:
            raise InvalidRequestError("limit and offset can't be negative")
        exchange = ReadExchange(min(limit + 1, _LENGTH))
        self._session.open_exchange(exchange, (_raw(path), offset, min(limit + 1, _LENGTH)))
        try:
            await exchange.opened.wait()
            if exchange.info is not None and cast("int", exchange.info[1]) - offset > limit:
                raise _too_large(path, limit)
            seen = 0
            while (data := await exchange.inboxes[0].next()) is not None:
                seen += len(data)
                # The guest's word about the size is not enough: the file may grow, or the guest lie.
                if seen > limit:
                    raise _too_large(path, limit)
                yield data
            _raise(path, self._ended(exchange))
        finally:
            exchange.close()

    def _ended(self, exchange: Exchange) -> tuple[EndKind, int, str]:
        if exchange.end is None:
            raise exchange.failure or InstanceLostError("the sandbox died")
        return exchange.end

    async def write(self, path: PurePosixPath, data: bytes | AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Write the file at once: readers see the old content or the new, never a part."""
        _check_mode(mode)
        session = self._session
        exchange = WriteExchange()
        session.open_exchange(exchange, (_raw(path), mode))
        try:
            try:
                if isinstance(data, bytes | bytearray | memoryview):
                    await session.send_data(exchange, data)
                else:
                    async for part in data:
                        await session.send_data(exchange, part)
                exchange.send(Message.EOF, 0)
            except anyio.BrokenResourceError:
                # END has come early and says why.
                pass
            _raise(path, await session.finish(exchange))
        finally:
            exchange.close()

    async def scan(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[FileInfo]:
        """Yield the entries of a directory; ``path`` of each is below the ``path`` that was given."""
        exchange = ScanExchange(recursive=recursive)
        self._session.open_exchange(exchange, (_raw(path), int(recursive)))
        try:
            while (fields := await exchange.items.next()) is not None:
                yield _info(path / os.fsdecode(cast("bytes", fields[0])), fields[1:])
            _raise(path, self._ended(exchange))
        finally:
            exchange.close()

    async def stat(self, path: PurePosixPath) -> FileInfo:
        """Return the entry itself."""
        exchange = ReplyExchange(Message.STAT, Message.INFO)
        self._session.open_exchange(exchange, (_raw(path),))
        _raise(path, await self._session.finish(exchange))
        return _info(path, cast("Fields", exchange.reply))

    async def mkdir(self, path: PurePosixPath, *, mode: int = 0o755, parents: bool = True) -> None:
        """Make a directory; one that exists is fine when ``parents`` is true."""
        _check_mode(mode)
        await self._call(Message.MKDIR, path, (_raw(path), mode, int(parents)))

    async def move(self, source: PurePosixPath, target: PurePosixPath, *, overwrite: bool = True) -> None:
        """Rename; between two file systems it fails with EXDEV."""
        await self._call(Message.MOVE, source, (_raw(source), _raw(target), int(overwrite)))

    async def chmod(self, path: PurePosixPath, mode: int) -> None:
        """Set the permission bits of what the path leads to."""
        _check_mode(mode)
        await self._call(Message.CHMOD, path, (_raw(path), mode))

    async def remove(self, path: PurePosixPath, *, recursive: bool = False) -> None:
        """Remove a file, link or empty directory, or with ``recursive`` a tree."""
        await self._call(Message.REMOVE, path, (_raw(path), int(recursive)))

    def watch(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[WatchEvent]:
        """Return an iterator over changes. It sees everything that is asked for after this call."""
        exchange = WatchExchange(recursive=recursive)
        # Sent before the first ``__anext__``: frames keep their order, so the watch stands before
        # any later request of this session is served.
        self._session.open_exchange(exchange, (_raw(path), int(recursive)))
        return _Watch(path, exchange)


class _Watch:
    """Changes below one directory, until closed."""

    def __init__(self, path: PurePosixPath, exchange: WatchExchange) -> None:
        self._path = path
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[WatchEvent]:
        return self

    async def __anext__(self) -> WatchEvent:
        await checkpoint()
        exchange = self._exchange
        fields = await exchange.items.next()
        if fields is None:
            if exchange.end is not None and exchange.end[0] is not EndKind.CANCELLED:
                _raise(self._path, exchange.end)
            raise StopAsyncIteration
        kind, raw = cast("tuple[int, bytes]", fields)
        return WatchEvent(kind=_CHANGES[kind], path=self._path / os.fsdecode(raw) if raw else self._path)

    async def aclose(self) -> None:
        """Stop watching; idempotent."""
        self._exchange.close()
        await checkpoint()
