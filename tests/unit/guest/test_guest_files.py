"""Files inside, through a real agent."""

from __future__ import annotations

import errno
import os
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.boundary.contract import FileKind, WatchEvent, WatchKind
from jubako.errors import (
    FileTooLargeError,
    GuestFileError,
    GuestFileExistsError,
    GuestFileNotFoundError,
    GuestIsADirectoryError,
    GuestNotADirectoryError,
    GuestPermissionError,
    InvalidRequestError,
)
from jubako.guest import SessionLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Guest, OpenGuest
    from jubako.boundary.contract import Files

pytestmark = pytest.mark.anyio
P = PurePosixPath


async def names(files: Files, path: str, *, recursive: bool = False) -> list[str]:
    return sorted([str(entry.path) async for entry in files.scan(P(path), recursive=recursive)])


async def test_write_and_read(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        files = guest.session.files
        for size in (0, 1, 65536, 65537, 3_000_000):
            data = os.urandom(size)
            await files.write(P("a/b/file"), data, mode=0o640)
            assert await files.read(P("a/b/file"), limit=3_000_000) == data
        assert (await guest.sh("stat -c '%a %s' a/b/file; ls -A a/b")).out == b"640 3000000\nfile\n"
        assert await files.read(P("a/b/file"), limit=100, offset=2_999_950) == data[-50:]
        assert await files.read(P("a/b/file"), limit=100, offset=3_000_001) == b""
        assert await files.read(guest.workspace / P("a/b/file"), limit=3_000_000) == data  # type: ignore[arg-type]  # outside it is a real path


async def test_stream_in_and_out(open_guest: OpenGuest) -> None:
    async with open_guest(limits=SessionLimits(window=65536)) as guest:
        files = guest.session.files

        async def parts() -> AsyncIterator[bytes]:
            for number in range(50):
                yield bytes([number]) * 10_000

        await files.write(P("big"), parts())
        seen = b"".join([part async for part in files.stream(P("big"), limit=500_000)])
        assert seen == b"".join(bytes([number]) * 10_000 for number in range(50))


async def test_limits_are_held(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        files = guest.session.files
        await files.write(P("file"), bytes(1000))
        assert len(await files.read(P("file"), limit=1000)) == 1000
        with pytest.raises(FileTooLargeError) as caught:
            await files.read(P("file"), limit=999)
        assert caught.value.errno == errno.EFBIG
        # /proc files say that they are empty.
        with pytest.raises(FileTooLargeError):
            await files.read(P("/proc/self/status"), limit=10)
        for limit, offset in ((-1, 0), (1, -1)):
            with pytest.raises(InvalidRequestError):
                await files.read(P("file"), limit=limit, offset=offset)
        assert await files.read(P("file"), limit=0, offset=1000) == b""


async def test_failed_writes_leave_nothing(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        files = guest.session.files

        async def broken() -> AsyncIterator[bytes]:
            yield bytes(100_000)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await files.write(P("file"), broken())
        await files.mkdir(P("directory/below"))
        with pytest.raises(GuestIsADirectoryError):
            await files.write(P("directory"), b"x")
        with pytest.raises(GuestFileError):
            await files.write(P("/proc/x"), b"x")
        assert await names(files, ".", recursive=True) == ["directory", "directory/below"]


async def test_only_regular_files_are_read(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        files = guest.session.files
        await guest.sh("mkfifo pipe; mkdir directory; ln -s pipe link")
        with anyio.fail_after(5):
            for path, kind in (("pipe", errno.EINVAL), ("link", errno.EINVAL), ("/dev/zero", errno.EINVAL)):
                with pytest.raises(GuestFileError) as caught:
                    await files.read(P(path), limit=100)
                assert caught.value.errno == kind
            with pytest.raises(GuestIsADirectoryError):
                await files.read(P("directory"), limit=100)
            with pytest.raises(GuestFileNotFoundError):
                await files.read(P("missing"), limit=100)
            with pytest.raises(GuestNotADirectoryError):
                await files.read(P("pipe/x"), limit=100)


async def test_relative_paths_stay_in_the_workspace(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        files = guest.session.files
        await guest.sh("ln -s /etc out; ln -s /etc/passwd secret; mkdir real; ln -s real alias; echo hi > real/file")
        assert await files.read(P("alias/file"), limit=10) == b"hi\n"
        for action in (
            files.read(P("secret"), limit=10**6),
            files.read(P("out/passwd"), limit=10**6),
            files.write(P("out/new"), b"x"),
            files.stat(P("out/passwd")),
            files.mkdir(P("out/new/deep")),
            files.chmod(P("secret"), 0o777),
            files.move(P("out/passwd"), P("mine")),
            files.remove(P("out/passwd")),
        ):
            with pytest.raises(GuestFileError) as caught:
                await action
            assert caught.value.errno == errno.EXDEV
        for path in ("../x", "a/../../x"):
            with pytest.raises(InvalidRequestError):
                await files.read(P(path), limit=1)
        for path in ("a\0b", "x" * 5000):
            with pytest.raises(InvalidRequestError):
                await files.stat(P(path))


async def test_stat(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        files = guest.session.files
        await guest.sh(
            "printf 12345 > file; chmod 4751 file; ln -s nowhere link; mkfifo pipe; mkdir d; touch -d @-5 old"
        )
        info = await files.stat(P("file"))
        assert (info.path, info.kind, info.size, info.mode, info.target) == (P("file"), FileKind.FILE, 5, 0o4751, None)
        assert abs((datetime.now(UTC) - info.modified).total_seconds()) < 60
        assert (await files.stat(P("link"))).target == "nowhere"
        assert (await files.stat(P("link"))).kind is FileKind.SYMLINK
        assert (await files.stat(P("pipe"))).kind is FileKind.OTHER
        assert (await files.stat(P("."))).kind is FileKind.DIRECTORY
        assert (await files.stat(P("/"))).kind is FileKind.DIRECTORY
        assert (await files.stat(P("old"))).modified == datetime(1969, 12, 31, 23, 59, 55, tzinfo=UTC)
        with pytest.raises(GuestFileNotFoundError) as caught:
            await files.stat(P("missing"))
        assert str(caught.value) == "missing: No such file or directory"
        assert caught.value.details["path"] == "missing"


async def test_scan(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        files = guest.session.files
        await guest.sh("mkdir -p a/b; touch a/one a/b/two; ln -s / a/root; touch \"a/new\nline\" a/$(printf '\\377')")
        assert await names(files, "a") == sorted(["a/b", "a/one", "a/root", "a/new\nline", "a/\udcff"])
        assert await names(files, "a", recursive=True) == sorted([*await names(files, "a"), "a/b/two"])
        await guest.sh("mkdir many; cd many; seq 3000 | xargs touch")
        assert len(await names(files, "many")) == 3000
        with pytest.raises(GuestNotADirectoryError):
            await names(files, "a/one")
        with pytest.raises(GuestFileNotFoundError):
            await names(files, "missing")
        async with aclosing(files.scan(P("many"))) as entries:  # type: ignore[type-var]  # it is a generator
            async for _ in entries:
                break
        assert len(await names(files, "many")) == 3000


async def test_mkdir_move_chmod(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        files = guest.session.files
        await files.mkdir(P("a/b"), mode=0o2700)
        await files.mkdir(P("a/b"))
        with pytest.raises(GuestFileExistsError):
            await files.mkdir(P("a/b"), parents=False)
        with pytest.raises(GuestFileNotFoundError):
            await files.mkdir(P("x/y"), parents=False)
        assert (await guest.sh("stat -c %a a a/b")).out == b"755\n2700\n"
        await files.write(P("one"), b"1")
        await files.write(P("two"), b"2")
        with pytest.raises(GuestFileExistsError):
            await files.move(P("one"), P("two"), overwrite=False)
        await files.move(P("one"), P("two"))
        await files.move(P("two"), P("a/b/three"), overwrite=False)
        assert await names(files, ".", recursive=True) == ["a", "a/b", "a/b/three"]
        await files.chmod(P("a/b/three"), 0o4711)
        assert (await guest.sh("stat -c %a a/b/three")).out == b"4711\n"
        with pytest.raises(InvalidRequestError):
            await files.chmod(P("a"), 0o100000)


async def test_remove(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        files = guest.session.files
        await guest.sh(
            "mkdir -p keep tree/a/b; touch keep/file tree/a/b/c; ln -s ../keep tree/link; ln -s keep top; mkfifo tree/p"
        )
        with pytest.raises(GuestFileError) as caught:
            await files.remove(P("tree"))
        assert caught.value.errno == errno.ENOTEMPTY
        await files.remove(P("tree"), recursive=True)
        await files.remove(P("top"), recursive=True)
        assert await names(files, ".", recursive=True) == ["keep", "keep/file"]
        with pytest.raises(GuestFileNotFoundError):
            await files.remove(P("tree"), recursive=True)


async def test_remove_any_depth(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        deep = "import os\nfor _ in range(3000):\n  os.mkdir('d'); open('f', 'w').close(); os.chdir('d')"
        await guest.sh("mkdir top")
        assert (await guest.run("python3", "-I", "-S", "-c", deep, cwd=P("top"))).status.code == 0
        await guest.session.files.remove(P("top"), recursive=True)
        assert await names(guest.session.files, ".") == []


async def test_permissions_are_the_guests(open_guest: OpenGuest, place: str) -> None:
    if place != "bwrap":
        pytest.skip("root outside may do everything")
    async with open_guest() as guest:
        with pytest.raises(GuestPermissionError):
            await guest.session.files.write(P("/usr/new"), b"x")
        await guest.sh("echo x > secret; chmod 0 secret")
        with pytest.raises(GuestPermissionError):
            await guest.session.files.read(P("secret"), limit=10**6)


async def collect(guest: Guest, path: str, script: str, *, recursive: bool = False) -> list[WatchEvent]:
    """Return what a watch sees of ``script``, up to the file named ``end``."""
    watch = guest.session.files.watch(P(path), recursive=recursive)
    assert (await guest.sh(script + f"; touch {path}/end")).err == b""
    seen: list[WatchEvent] = []
    with anyio.fail_after(10):
        async for event in watch:
            if event.path.name == "end":
                break
            seen.append(event)
    await watch.aclose()  # type: ignore[attr-defined]  # the contract's "closed"
    return seen


async def test_watch(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        await guest.sh("mkdir d d/sub; touch d/old")
        seen = await collect(
            guest, "d", "echo x > d/new; mv d/new d/moved; chmod 600 d/old; rm d/old; touch d/sub/unseen"
        )
        assert seen == [
            WatchEvent(WatchKind.CREATED, P("d/new")),
            WatchEvent(WatchKind.MODIFIED, P("d/new")),
            WatchEvent(WatchKind.MOVED, P("d/new")),
            WatchEvent(WatchKind.CREATED, P("d/moved")),
            WatchEvent(WatchKind.MODIFIED, P("d/old")),
            WatchEvent(WatchKind.REMOVED, P("d/old")),
        ]


async def test_watch_recursive(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        await guest.sh("mkdir -p d/old/deep")
        seen = await collect(
            guest,
            "d",
            "touch d/old/deep/file; mkdir -p d/a/b/c; touch d/a/b/c/x; sleep 0.1; touch d/a/b/c/y",
            recursive=True,
        )
        made = {str(event.path) for event in seen if event.kind is WatchKind.CREATED}
        assert made >= {"d/old/deep/file", "d/a", "d/a/b", "d/a/b/c", "d/a/b/c/x", "d/a/b/c/y"}


async def test_watch_says_what_it_lost(open_guest: OpenGuest) -> None:
    async with open_guest(limits=SessionLimits(window=65536)) as guest:
        await guest.sh("mkdir d")
        watch = guest.session.files.watch(P("d"))
        await guest.sh("cd d; seq 20000 | xargs touch")
        kinds: set[WatchKind] = set()
        with anyio.fail_after(20):
            async for event in watch:
                kinds.add(event.kind)
                if event.kind is WatchKind.LOST:
                    assert event.path == P("d")
                    break
        assert WatchKind.CREATED in kinds
        await watch.aclose()  # type: ignore[attr-defined]


async def test_watch_ends_with_its_directory(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        await guest.sh("mkdir d")
        watch = guest.session.files.watch(P("d"))
        await guest.sh("rmdir d")
        with anyio.fail_after(5):
            assert [event async for event in watch] == []
        with pytest.raises(GuestFileNotFoundError):
            await guest.session.files.watch(P("d")).__anext__()
        with pytest.raises(GuestNotADirectoryError):
            await guest.session.files.watch(P("/etc/passwd")).__anext__()


async def test_cancelled_operations_free_their_streams(open_guest: OpenGuest) -> None:
    async with open_guest(limits=SessionLimits(streams=4)) as guest:
        files = guest.session.files
        await files.write(P("big"), bytes(2_000_000))
        for _ in range(20):
            with anyio.CancelScope() as scope:
                async for _part in files.stream(P("big"), limit=2_000_000):
                    scope.cancel()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await files.stat(P("big"))
            await files.stat(P("big"))
            with anyio.move_on_after(0):
                await files.write(P("other"), bytes(2_000_000))
            await files.stat(P("big"))
        assert [name for name in await names(files, ".") if name.startswith(".jubako")] == []
