"""files.*: reading and writing."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
import pytest

from jubako.errors import (
    FileTooLargeError,
    GuestFileError,
    GuestFileNotFoundError,
    GuestIsADirectoryError,
    GuestPermissionError,
    JubakoError,
)
from jubako.policy import FilePolicy, Policy
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import eventually, soon
from jubako.testing.conformance._programs import SHOW

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jubako.testing.conformance._bench import MakeGuest
    from jubako.testing.conformance._guest import Guest

__all__ = ["FileChecks"]

_MIB = 1024 * 1024
_ROOMY = 256 * _MIB

_DIGEST: Final = """
import hashlib, sys
seen = hashlib.sha256()
with open(sys.argv[1], "rb") as file:
    for data in iter(lambda: file.read(1 << 20), b""):
        seen.update(data)
print(seen.hexdigest())
"""
_OWNED: Final = """
import os
for name in ("new", "new/file"):
    assert not hasattr(os, "geteuid") or os.stat(name).st_uid == os.geteuid(), name
with open("new/file", "a") as file:
    file.write("more")
with open("new/file") as file:
    print(file.read())
"""


class _SourceFailedError(Exception):
    """Raised by data that the caller could not produce."""


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        await anyio.lowlevel.checkpoint()
        yield piece


class FileChecks(Checks):
    """Reading and writing files."""

    @check("files.roundtrip")
    async def test_files_roundtrip(self, guest: Guest) -> None:
        """What was written is read back, byte by byte, also by programs inside."""
        for name, data in (("empty", b""), ("binary", bytes(range(256)) * 300), ("text", "zwölf\n".encode())):
            path = guest.workspace / name
            await guest.files.write(path, data)
            assert await guest.files.read(path, limit=_MIB) == data
            assert (await guest.py(SHOW, str(path))).stdout == data

    @check("files.large", slow=True, timeout=60)
    async def test_files_large(self, guest: Guest) -> None:
        """A file of 64 MB goes in and out unchanged."""
        block = secrets.token_bytes(_MIB)
        wanted = hashlib.sha256(block * 64).hexdigest()
        path = guest.workspace / "large"
        await guest.files.write(path, _pieces(*[block] * 64))
        assert await guest.says(_DIGEST, str(path)) == wanted
        seen = hashlib.sha256()
        async for chunk in guest.files.stream(path, limit=_ROOMY):
            seen.update(chunk)
        assert seen.hexdigest() == wanted

    @check("files.relative")
    async def test_files_relative(self, guest: Guest) -> None:
        """A relative path is below the workspace."""
        await guest.files.write(PurePosixPath("sub/file"), b"data")
        assert await guest.cat(str(guest.workspace / "sub" / "file")) == "data"
        assert await guest.files.read(PurePosixPath("sub/file"), limit=10) == b"data"

    @check("files.tmp")
    async def test_files_tmp(self, guest: Guest) -> None:
        """Files and programs see the same /tmp."""
        await guest.files.write(PurePosixPath("/tmp/from-outside"), b"out")
        await guest.make("/tmp/from-inside=in\n")
        assert await guest.cat("/tmp/from-outside") == "out"
        assert await guest.files.read(PurePosixPath("/tmp/from-inside"), limit=10) == b"in\n"

    @check("files.names")
    async def test_files_names(self, guest: Guest) -> None:
        """Any name that Linux allows works: Unicode, line ends, quotes, like options, 255 bytes, not UTF-8."""
        names = ["ünï 😀", "two\nlines", "tab\tand'\"quotes", "-rf", " ", "*", "n" * 255, os.fsdecode(b"raw\xff\xfe")]
        for name in names:
            path = guest.workspace / "names" / name
            await guest.files.write(path, name.encode("utf-8", "surrogateescape"))
            assert await guest.files.read(path, limit=1000) == os.fsencode(name)
            assert (await guest.files.stat(path)).path.name == name
        found = [entry.path.name async for entry in guest.files.scan(guest.workspace / "names")]
        assert sorted(found) == sorted(names)

    @check("files.invalid-path")
    async def test_files_invalid_path(self, guest: Guest) -> None:
        """A path that Linux can't have is refused clearly by every operation."""
        for name in ("a\0b", "n" * 256, "/".join(["d" * 200] * 30), "\ud800"):
            path = guest.workspace / name
            with pytest.raises(JubakoError):
                await guest.files.read(path, limit=10)
            with pytest.raises(JubakoError):
                await guest.files.write(path, b"x")
            with pytest.raises(JubakoError):
                await guest.files.stat(path)
        await guest.works()

    @check("files.read-missing")
    async def test_files_read_missing(self, guest: Guest) -> None:
        """Reading a file that doesn't exist raises GuestFileNotFoundError."""
        with pytest.raises(GuestFileNotFoundError) as caught:
            await guest.files.read(guest.workspace / "missing", limit=10)
        assert isinstance(caught.value, FileNotFoundError)
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(GuestFileNotFoundError):
            async for _ in guest.files.stream(guest.workspace / "missing", limit=10):
                pass

    @check("files.read-limit")
    async def test_files_read_limit(self, guest: Guest) -> None:
        """A file over the limit raises FileTooLargeError and gives nothing; one of exactly the limit is read."""
        path = guest.workspace / "file"
        await guest.files.write(path, b"x" * 70_000)
        assert len(await guest.files.read(path, limit=70_000)) == 70_000
        for limit in (69_999, 1, 0):
            with pytest.raises(FileTooLargeError):
                await guest.files.read(path, limit=limit)

    @check("files.read-growing")
    async def test_files_read_growing(self, guest: Guest) -> None:
        """The limit holds for files whose size says nothing, and such files can be read."""
        path = PurePosixPath("/proc/self/status")
        assert b"Name:" in await guest.files.read(path, limit=_MIB)
        with pytest.raises(FileTooLargeError):
            await guest.files.read(path, limit=10)

    @check("files.read-offset")
    async def test_files_read_offset(self, guest: Guest) -> None:
        """Reading from an offset gives the rest of the file; nothing is beyond its end."""
        path = guest.workspace / "file"
        await guest.files.write(path, b"0123456789")
        assert await guest.files.read(path, limit=100, offset=4) == b"456789"
        assert await guest.files.read(path, limit=100, offset=10) == b""
        assert await guest.files.read(path, limit=100, offset=99) == b""
        chunks = [chunk async for chunk in guest.files.stream(path, limit=100, offset=7)]
        assert b"".join(chunks) == b"789"

    @check("files.read-directory")
    async def test_files_read_directory(self, guest: Guest) -> None:
        """Reading a directory raises GuestIsADirectoryError."""
        with pytest.raises(GuestIsADirectoryError):
            await guest.files.read(guest.workspace, limit=10)

    @check("files.read-special")
    async def test_files_read_special(self, guest: Guest) -> None:
        """Pipes and devices are refused at once, never waited for or read without end."""
        paths = [PurePosixPath("/dev/zero")]
        if await guest.pipe("pipe"):
            paths.append(guest.workspace / "pipe")
        for path in paths:
            with soon(), pytest.raises(GuestFileError):
                await guest.files.read(path, limit=_MIB)
            with soon(), pytest.raises(GuestFileError):
                async for _ in guest.files.stream(path, limit=_MIB):
                    pass

    @check("files.read-forbidden")
    async def test_files_read_forbidden(self, guest: Guest) -> None:
        """A file that the sandbox's user may not read raises GuestPermissionError."""
        path = guest.workspace / "closed"
        await guest.files.write(path, b"x", mode=0o000)
        with pytest.raises(GuestPermissionError):
            await guest.files.read(path, limit=10)

    @check("files.stream")
    async def test_files_stream(self, guest: Guest) -> None:
        """A streamed file comes in chunks of bounded size and may be left early."""
        path = guest.workspace / "file"
        data = secrets.token_bytes(4096) * 1024
        await guest.files.write(path, data)
        chunks = [chunk async for chunk in guest.files.stream(path, limit=_ROOMY)]
        assert b"".join(chunks) == data
        assert max(map(len, chunks)) <= _MIB
        for _ in range(5):
            stream = guest.files.stream(path, limit=_ROOMY)
            assert data.startswith(await anext(stream))
            await stream.aclose()  # type: ignore[attr-defined]  # async generators have it
        assert await guest.files.read(path, limit=_ROOMY, offset=len(data) - 5) == data[-5:]

    @check("files.stream-limit")
    async def test_files_stream_limit(self, guest: Guest) -> None:
        """A streamed file over the limit raises FileTooLargeError, and not more than the limit came before."""
        path = guest.workspace / "file"
        await guest.files.write(path, b"x" * 300_000)
        seen = 0
        with pytest.raises(FileTooLargeError):
            async for chunk in guest.files.stream(path, limit=200_000):
                seen += len(chunk)
        assert seen <= 200_000

    @check("files.write-stream")
    async def test_files_write_stream(self, guest: Guest) -> None:
        """Data may come in pieces, empty ones too."""
        path = guest.workspace / "file"
        await guest.files.write(path, _pieces(b"one", b"", b"two" * 100_000, b"three"))
        assert await guest.files.read(path, limit=_MIB) == b"one" + b"two" * 100_000 + b"three"
        await guest.files.write(path, _pieces())
        assert await guest.files.read(path, limit=_MIB) == b""

    @check("files.write-parents")
    async def test_files_write_parents(self, guest: Guest) -> None:
        """Missing parent directories are made."""
        await guest.files.write(guest.workspace / "a" / "b" / "c" / "file", b"x")
        assert await guest.cat("a/b/c/file") == "x"
        assert await guest.mode("a/b") == 0o755

    @check("files.write-mode")
    async def test_files_write_mode(self, guest: Guest) -> None:
        """A written file has the permission bits that were asked for, also where one was before."""
        path = guest.workspace / "file"
        await guest.files.write(path, b"x")
        assert await guest.mode("file") == 0o644
        for mode in (0o600, 0o755, 0o777, 0o440):
            await guest.files.write(path, b"x", mode=mode)
            assert await guest.mode("file") == mode

    @check("files.write-owner")
    async def test_files_write_owner(self, guest: Guest) -> None:
        """A written file belongs to the user that programs run as."""
        await guest.files.write(guest.workspace / "new" / "file", b"x")
        assert await guest.says(_OWNED) == "xmore"

    @check("files.write-atomic")
    async def test_files_write_atomic(self, guest: Guest) -> None:
        """Until a write is complete the old content stays; then the new one is there as a whole."""
        path = guest.workspace / "file"
        await guest.files.write(path, b"old")
        seen: list[bytes] = []

        async def slow() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"new" * 50_000
                seen.append(await guest.files.read(path, limit=_MIB))

        await guest.files.write(path, slow())
        assert seen == [b"old"] * 3
        assert await guest.files.read(path, limit=_MIB) == b"new" * 150_000

    @check("files.write-failed")
    async def test_files_write_failed(self, guest: Guest) -> None:
        """A write that fails or is cancelled half-way leaves the old content and nothing else."""
        path = guest.workspace / "d" / "file"
        await guest.files.write(path, b"old")

        async def failing() -> AsyncIterator[bytes]:
            yield b"new" * 50_000
            raise _SourceFailedError

        async def endless() -> AsyncIterator[bytes]:
            yield b"new" * 50_000
            await anyio.sleep_forever()

        with pytest.raises(_SourceFailedError):
            await guest.files.write(path, failing())
        with anyio.move_on_after(0.1) as scope:
            await guest.files.write(path, endless())
        assert scope.cancelled_caught
        assert await guest.files.read(path, limit=_MIB) == b"old"

        async def tidy() -> bool:
            return await guest.ls("d") == ["file"]

        await eventually(tidy, "nothing but the file is left")

    @check("files.write-directory")
    async def test_files_write_directory(self, guest: Guest) -> None:
        """Writing where a directory is, or below a file, is refused and changes nothing."""
        await guest.files.write(guest.workspace / "d" / "file", b"x")
        with pytest.raises(GuestIsADirectoryError):
            await guest.files.write(guest.workspace / "d", b"new")
        with pytest.raises(GuestFileError):
            await guest.files.write(guest.workspace / "d" / "file" / "below", b"new")
        assert await guest.ls("d") == ["file"]
        assert await guest.cat("d/file") == "x"

    @check("files.write-readonly")
    async def test_files_write_readonly(self, guest: Guest) -> None:
        """Writing to the read-only root is refused as a file error."""
        for path in ("/usr/new", "/etc/hostname", "/new", "/proc/sys/kernel/hostname"):
            with pytest.raises(GuestFileError) as caught:
                await guest.files.write(PurePosixPath(path), b"x")
            assert caught.value.errno in {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}

    @check("files.disk-full")
    async def test_files_disk_full(self, make_guest: MakeGuest) -> None:
        """A full workspace is the error ENOSPC; the old file stays, and the sandbox works on."""
        guest = await make_guest(Policy(files=FilePolicy(workspace_size=2 * _MIB)))
        path = guest.workspace / "file"
        await guest.files.write(path, b"old")
        for data in (b"x" * (3 * _MIB), _pieces(*[b"x" * _MIB] * 3)):
            with pytest.raises(GuestFileError) as caught:
                await guest.files.write(path, data)
            assert caught.value.errno == errno.ENOSPC
        assert await guest.files.read(path, limit=_MIB) == b"old"
        await guest.files.write(guest.workspace / "other", b"x" * _MIB)
        assert await guest.ls() == ["file", "other"]

    @check("files.concurrent")
    async def test_files_concurrent(self, guest: Guest) -> None:
        """Many files at once are not mixed up."""

        async def one(number: int) -> None:
            path = guest.workspace / "many" / str(number)
            data = bytes([number]) * 100_000
            await guest.files.write(path, data)
            assert await guest.files.read(path, limit=_MIB) == data

        async with anyio.create_task_group() as tasks:
            for number in range(24):
                tasks.start_soon(one, number)

    @check("files.stat")
    async def test_files_stat(self, guest: Guest) -> None:
        """An entry tells its kind, size, permission bits and time of change."""
        path = guest.workspace / "file"
        before = datetime.now(UTC) - timedelta(seconds=2)
        await guest.files.write(path, b"12345", mode=0o640)
        await guest.make("dir/", "old=")
        await guest.says("import os; os.utime('old', (1e9 + 0.5, 1e9 + 0.5))")
        info = await guest.files.stat(path)
        assert (info.kind, info.size, info.mode & 0o7777, info.target) == ("file", 5, 0o640, None)
        assert before <= info.modified <= datetime.now(UTC) + timedelta(seconds=2)
        assert info.path == path
        assert (await guest.files.stat(guest.workspace / "dir")).kind == "directory"
        if await guest.pipe("pipe"):
            assert (await guest.files.stat(guest.workspace / "pipe")).kind == "other"
        assert (await guest.files.stat(guest.workspace / "old")).modified.timestamp() == pytest.approx(1e9 + 0.5)
        with pytest.raises(GuestFileNotFoundError):
            await guest.files.stat(guest.workspace / "missing")
