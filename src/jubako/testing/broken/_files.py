"""Drivers that break a promise about files."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio

from jubako.boundary.contract import FileKind, WatchKind
from jubako.errors import GuestFileError, GuestFileNotFoundError, JubakoError
from jubako.testing.broken._delegate import BrokenDriver, BrokenFiles, BrokenInstance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import PurePosixPath

    from jubako.boundary.contract import Driver, FileInfo, WatchEvent

__all__ = ["FILE_DEFECTS"]

_ENDLESS: Final = 2**40


class UnlimitedRead(BrokenDriver):
    """Reads files of any size."""

    breaks = frozenset({"files.read-growing", "files.read-limit"})
    reach = frozenset({"files.read"})

    class _Files(BrokenFiles):
        async def read(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> bytes:
            """Read without limit."""
            del limit
            return await super().read(path, limit=_ENDLESS, offset=offset)

    files_type = _Files


class CutsRead(BrokenDriver):
    """Gives the beginning of a file that is too large."""

    breaks = frozenset({"files.read-growing", "files.read-limit"})
    reach = frozenset({"files.read"})

    class _Files(BrokenFiles):
        async def read(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> bytes:
            """Cut instead of refusing."""
            return (await super().read(path, limit=_ENDLESS, offset=offset))[:limit]

    files_type = _Files


class UnlimitedStream(BrokenDriver):
    """Streams files of any size."""

    breaks = frozenset({"files.stream-limit"})
    reach = frozenset({"files.stream"})

    class _Files(BrokenFiles):
        async def stream(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> AsyncIterator[bytes]:
            """Stream without limit."""
            del limit
            async for chunk in super().stream(path, limit=_ENDLESS, offset=offset):
                yield chunk

    files_type = _Files


class StreamsAtOnce(BrokenDriver):
    """Streams a file as one piece, whatever its size."""

    breaks = frozenset({"files.stream"})
    reach = frozenset({"files.stream"})

    class _Files(BrokenFiles):
        async def stream(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> AsyncIterator[bytes]:
            """Read it all first."""
            yield b"".join([chunk async for chunk in super().stream(path, limit=limit, offset=offset)])

    files_type = _Files


class IgnoresOffset(BrokenDriver):
    """Reads from the beginning always."""

    breaks = frozenset({"files.read-offset", "files.stream"})
    reach = frozenset({"files.read", "files.stream"})

    class _Files(BrokenFiles):
        async def read(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> bytes:
            """Drop the offset."""
            del offset
            return await super().read(path, limit=limit)

    files_type = _Files


class MissingIsEmpty(BrokenDriver):
    """Reads a missing file as an empty one."""

    breaks = frozenset({"files.read-missing", "isolation.host-files"})
    reach = frozenset({"files.read"})

    class _Files(BrokenFiles):
        async def read(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> bytes:
            """Make up an empty file."""
            try:
                return await super().read(path, limit=limit, offset=offset)
            except GuestFileNotFoundError:
                return b""

    files_type = _Files


class VagueErrors(BrokenDriver):
    """Raises one error for everything that goes wrong with reading."""

    breaks = frozenset(
        {"files.read-directory", "files.read-forbidden", "files.read-growing", "files.read-limit", "files.read-missing"}
    )
    reach = frozenset({"files.read"})

    class _Files(BrokenFiles):
        async def read(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> bytes:
            """Flatten the errors."""
            try:
                return await super().read(path, limit=limit, offset=offset)
            except GuestFileError as error:
                raise GuestFileError("the file can't be read") from error

    files_type = _Files


class WritesInPlace(BrokenDriver):
    """Lets a half-written file be seen, and keeps it when the write fails."""

    breaks = frozenset({"files.disk-full", "files.write-atomic", "files.write-failed"})
    reach = frozenset({"files.write"})

    class _Files(BrokenFiles):
        async def write(self, path: PurePosixPath, data: bytes | AsyncIterator[bytes], *, mode: int = 0o644) -> None:
            """Write the file again with each piece."""
            if isinstance(data, bytes):
                await super().write(path, data, mode=mode)
                return
            seen = b""
            await super().write(path, seen, mode=mode)
            async for piece in data:
                seen += piece
                await super().write(path, seen, mode=mode)

    files_type = _Files


class AppliesUmask(BrokenDriver):
    """Gives files fewer permission bits than were asked for."""

    breaks = frozenset({"files.write-mode"})
    reach = frozenset({"files.write"})

    class _Files(BrokenFiles):
        async def write(self, path: PurePosixPath, data: bytes | AsyncIterator[bytes], *, mode: int = 0o644) -> None:
            """Drop what a umask would."""
            await super().write(path, data, mode=mode & ~0o022)

    files_type = _Files


class ForgetsDiskFull(BrokenDriver):
    """Takes a write that found no room for done."""

    breaks = frozenset({"files.disk-full"})
    reach = frozenset({"files.write"})

    class _Files(BrokenFiles):
        async def write(self, path: PurePosixPath, data: bytes | AsyncIterator[bytes], *, mode: int = 0o644) -> None:
            """Swallow that one error."""
            try:
                await super().write(path, data, mode=mode)
            except GuestFileError as error:
                if error.errno != errno.ENOSPC:
                    raise

    files_type = _Files


class FollowsLinksInStat(BrokenDriver):
    """Reports what a link points to."""

    breaks = frozenset({"files.stat-symlink"})
    reach = frozenset({"files.stat"})

    class _Files(BrokenFiles):
        async def stat(self, path: PurePosixPath) -> FileInfo:
            """Follow the link."""
            info = await super().stat(path)
            if info.target is None:
                return info
            try:
                return replace(await super().stat(path.parent / info.target), path=path)
            except JubakoError:
                return info

    files_type = _Files


class FollowsLinksInScan(BrokenDriver):
    """Goes through links in a recursive scan."""

    breaks = frozenset({"files.scan-recursive"})
    reach = frozenset({"files.scan"})

    class _Files(BrokenFiles):
        async def scan(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[FileInfo]:
            """Follow links one level deep."""
            async for entry in super().scan(path, recursive=recursive):
                yield entry
                if recursive and entry.kind is FileKind.SYMLINK:
                    try:
                        async for below in self.inner.scan(entry.path / "."):
                            yield replace(below, path=entry.path / below.path.name)
                    except JubakoError:
                        continue

    files_type = _Files


class FlatScan(BrokenDriver):
    """Scans one level only."""

    breaks = frozenset({"files.scan-recursive"})
    reach = frozenset({"files.scan"})

    class _Files(BrokenFiles):
        async def scan(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[FileInfo]:
            """Drop the flag."""
            del recursive
            async for entry in super().scan(path):
                yield entry

    files_type = _Files


class CutsScan(BrokenDriver):
    """Lists the first thousand entries only."""

    breaks = frozenset({"files.scan-many"})
    reach = frozenset({"files.scan"})

    class _Files(BrokenFiles):
        async def scan(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[FileInfo]:
            """Stop early."""
            count = 0
            async for entry in super().scan(path, recursive=recursive):
                count += 1
                if count <= 1000:  # the defect
                    yield entry

    files_type = _Files


class ManglesNames(BrokenDriver):
    """Replaces line ends in names."""

    breaks = frozenset({"files.names"})
    reach = frozenset({"files.scan"})

    class _Files(BrokenFiles):
        async def scan(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[FileInfo]:
            """Mangle the names."""
            async for entry in super().scan(path, recursive=recursive):
                yield replace(entry, path=entry.path.parent / entry.path.name.replace("\n", " "))

    files_type = _Files


class RemovesThroughLinks(BrokenDriver):
    """Removes what links in a tree point to."""

    breaks = frozenset({"files.remove-recursive"})
    reach = frozenset({"files.remove"})

    class _Files(BrokenFiles):
        async def remove(self, path: PurePosixPath, *, recursive: bool = False) -> None:
            """Empty what links point to first."""
            if recursive:
                links = [entry async for entry in self.inner.scan(path, recursive=True) if entry.target is not None]
                for entry in links:
                    try:
                        below = [item.path async for item in self.inner.scan(entry.path / ".")]
                    except JubakoError:
                        continue
                    for item in below:
                        await self.inner.remove(item, recursive=True)
            await super().remove(path, recursive=recursive)

    files_type = _Files


class AlwaysRecursive(BrokenDriver):
    """Removes full directories without being asked to."""

    breaks = frozenset({"files.remove-full"})
    reach = frozenset({"files.remove"})

    class _Files(BrokenFiles):
        async def remove(self, path: PurePosixPath, *, recursive: bool = False) -> None:
            """Set the flag."""
            del recursive
            await super().remove(path, recursive=True)

    files_type = _Files


class AlwaysOverwrites(BrokenDriver):
    """Replaces an existing target of a move."""

    breaks = frozenset({"files.move-exclusive"})
    reach = frozenset({"files.move"})

    class _Files(BrokenFiles):
        async def move(self, source: PurePosixPath, target: PurePosixPath, *, overwrite: bool = True) -> None:
            """Drop the flag."""
            del overwrite
            await super().move(source, target)

    files_type = _Files


class AlwaysParents(BrokenDriver):
    """Makes parent directories without being asked to."""

    breaks = frozenset({"files.mkdir"})
    reach = frozenset({"files.mkdir"})

    class _Files(BrokenFiles):
        async def mkdir(self, path: PurePosixPath, *, mode: int = 0o755, parents: bool = True) -> None:
            """Set the flag."""
            del parents
            await super().mkdir(path, mode=mode)

    files_type = _Files


class ForgetsChmod(BrokenDriver):
    """Sets permissions on directories only."""

    breaks = frozenset({"files.chmod"})
    reach = frozenset({"files.chmod"})

    class _Files(BrokenFiles):
        async def chmod(self, path: PurePosixPath, mode: int) -> None:
            """Skip files."""
            if (await self.inner.stat(path)).kind is FileKind.DIRECTORY:
                await super().chmod(path, mode)

    files_type = _Files


class MissesRemovals(BrokenDriver):
    """Doesn't report removed files."""

    breaks = frozenset({"watch.kinds"})
    reach = frozenset({"files.watch"})

    class _Files(BrokenFiles):
        async def watch(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[WatchEvent]:
            """Drop removals."""
            async for event in super().watch(path, recursive=recursive):
                if event.kind is not WatchKind.REMOVED:
                    yield event

    files_type = _Files


class WatchesFlat(BrokenDriver):
    """Watches one level only."""

    breaks = frozenset({"watch.recursive"})
    reach = frozenset({"files.watch"})

    class _Files(BrokenFiles):
        async def watch(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[WatchEvent]:
            """Drop the flag."""
            del recursive
            async for event in super().watch(path):
                yield event

    files_type = _Files


class WatchesNothing(BrokenDriver):
    """Accepts a watch on a path that doesn't exist, and waits."""

    breaks = frozenset({"watch.missing"})
    reach = frozenset({"files.watch"})

    class _Files(BrokenFiles):
        async def watch(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[WatchEvent]:
            """Wait instead of failing."""
            try:
                async for event in super().watch(path, recursive=recursive):
                    yield event
            except GuestFileNotFoundError:
                await anyio.sleep_forever()

    files_type = _Files


class LeaksFiles(BrokenDriver):
    """Lets the next sandbox have the files of the one before."""

    breaks = frozenset({"isolation.fresh"})
    reach = frozenset({"instance.next"})

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.kept: dict[PurePosixPath, bytes] = {}

    class _Files(BrokenFiles):
        async def write(self, path: PurePosixPath, data: bytes | AsyncIterator[bytes], *, mode: int = 0o644) -> None:
            """Keep a copy."""
            await super().write(path, data, mode=mode)
            if isinstance(data, bytes) and isinstance(self.owner.driver, LeaksFiles):
                self.owner.driver.kept[path] = data

    files_type = _Files

    class _Instance(BrokenInstance):
        async def start(self) -> None:
            """Bring the copies along."""
            await super().start()
            if isinstance(self.driver, LeaksFiles):
                for path, data in self.driver.kept.items():
                    await self.inner.files.write(path, data)

    instance_type = _Instance


FILE_DEFECTS: Final[tuple[type[BrokenDriver], ...]] = (
    UnlimitedRead,
    CutsRead,
    UnlimitedStream,
    StreamsAtOnce,
    IgnoresOffset,
    MissingIsEmpty,
    VagueErrors,
    WritesInPlace,
    AppliesUmask,
    ForgetsDiskFull,
    FollowsLinksInStat,
    FollowsLinksInScan,
    FlatScan,
    CutsScan,
    ManglesNames,
    RemovesThroughLinks,
    AlwaysRecursive,
    AlwaysOverwrites,
    AlwaysParents,
    ForgetsChmod,
    MissesRemovals,
    WatchesFlat,
    WatchesNothing,
    LeaksFiles,
)
