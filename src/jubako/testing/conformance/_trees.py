"""files.*: directories, links, permissions, and watching them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.boundary.contract import Feature, WatchKind
from jubako.errors import (
    GuestFileError,
    GuestFileExistsError,
    GuestFileNotFoundError,
    GuestNotADirectoryError,
    GuestPermissionError,
)
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import soon, stretched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import PurePosixPath

    from jubako.boundary.contract import FileInfo, WatchEvent
    from jubako.testing.conformance._guest import Guest

__all__ = ["TreeChecks", "WatchChecks"]


async def _scan(guest: Guest, path: PurePosixPath, *, recursive: bool = False) -> dict[str, FileInfo]:
    """Return the entries below ``path`` by their path relative to it."""
    found: dict[str, FileInfo] = {}
    async for entry in guest.files.scan(path, recursive=recursive):
        name = str(entry.path.relative_to(path))
        assert name not in found, f"{name} came twice"
        found[name] = entry
    return found


class TreeChecks(Checks):
    """Directories, links and permissions."""

    @check("files.scan")
    async def test_files_scan(self, guest: Guest) -> None:
        """A directory's entries come once each, with what stat says; the directory itself doesn't."""
        root = guest.workspace / "d"
        await guest.make("d/sub/deep/", "d/file=12345\n", "d/link->file", "d/sub/below=", "d/.dot=")
        pipe = {"pipe": "other"} if await guest.pipe("d/pipe") else {}
        found = await _scan(guest, root)
        kinds = {name: str(entry.kind) for name, entry in found.items()}
        assert kinds == {"sub": "directory", "file": "file", "link": "symlink", ".dot": "file", **pipe}
        assert found["file"] == await guest.files.stat(root / "file")
        assert found["link"].target == "file"
        assert await _scan(guest, root / "sub" / "deep") == {}

    @check("files.scan-recursive")
    async def test_files_scan_recursive(self, guest: Guest) -> None:
        """A recursive scan gives the whole tree and doesn't go through links."""
        await guest.make("d/sub/deep/", "other/", "d/sub/deep/file=", "other/outside=", "d/link->../other", "d/up->..")
        found = await _scan(guest, guest.workspace / "d", recursive=True)
        assert sorted(found) == ["link", "sub", "sub/deep", "sub/deep/file", "up"]
        assert found["link"].kind == "symlink"

    @check("files.scan-many")
    async def test_files_scan_many(self, guest: Guest) -> None:
        """A directory with thousands of entries is listed completely."""
        await guest.says("import os; os.mkdir('d')\nfor i in range(3000): open('d/entry-%d' % i, 'w').close()")
        assert len(await _scan(guest, guest.workspace / "d")) == 3000

    @check("files.scan-missing")
    async def test_files_scan_missing(self, guest: Guest) -> None:
        """Scanning what is missing, or no directory, raises the matching error."""
        await guest.make("file=")
        with pytest.raises(GuestFileNotFoundError):
            await _scan(guest, guest.workspace / "missing")
        with pytest.raises(GuestNotADirectoryError):
            await _scan(guest, guest.workspace / "file")

    @check("files.stat-symlink")
    async def test_files_stat_symlink(self, guest: Guest) -> None:
        """A link is reported as a link with its target, whether or not that exists."""
        await guest.make("file=12345", "link->file", "dangling->no/where")
        for name, target in (("link", "file"), ("dangling", "no/where")):
            info = await guest.files.stat(guest.workspace / name)
            assert (info.kind, info.target) == ("symlink", target)

    @check("files.mkdir")
    async def test_files_mkdir(self, guest: Guest) -> None:
        """Directories are made with their parents; an existing one is fine unless parents is false."""
        deep = guest.workspace / "a" / "b"
        await guest.files.mkdir(deep, mode=0o700)
        await guest.files.mkdir(deep)
        assert await guest.mode("a/b") == 0o700
        with pytest.raises(GuestFileExistsError):
            await guest.files.mkdir(deep, parents=False)
        with pytest.raises(GuestFileNotFoundError):
            await guest.files.mkdir(guest.workspace / "x" / "y", parents=False)
        await guest.files.write(guest.workspace / "file", b"")
        with pytest.raises(GuestFileError):
            await guest.files.mkdir(guest.workspace / "file")

    @check("files.move")
    async def test_files_move(self, guest: Guest) -> None:
        """Files and directories are renamed; a file at the target is replaced."""
        await guest.make("one=one\n", "two=two\n", "d/", "d/in=in\n")
        await guest.files.move(guest.workspace / "one", guest.workspace / "two")
        await guest.files.move(guest.workspace / "d", guest.workspace / "e")
        assert await guest.cat("two", "e/in") == "one\nin"
        assert await guest.ls() == ["e", "two"]
        with pytest.raises(GuestFileNotFoundError):
            await guest.files.move(guest.workspace / "missing", guest.workspace / "new")

    @check("files.move-exclusive")
    async def test_files_move_exclusive(self, guest: Guest) -> None:
        """Without overwrite an existing target is kept and GuestFileExistsError raised."""
        await guest.make("one=one\n", "two=two\n")
        with pytest.raises(GuestFileExistsError):
            await guest.files.move(guest.workspace / "one", guest.workspace / "two", overwrite=False)
        assert await guest.cat("one", "two") == "one\ntwo"
        await guest.files.move(guest.workspace / "one", guest.workspace / "three", overwrite=False)
        assert await guest.cat("three", "two") == "one\ntwo"

    @check("files.chmod")
    async def test_files_chmod(self, guest: Guest) -> None:
        """Permission bits are set as asked."""
        await guest.make("file=", "d/")
        for name, mode in (("file", 0o751), ("file", 0o400), ("d", 0o711)):
            await guest.files.chmod(guest.workspace / name, mode)
            assert await guest.mode(name) == mode
        with pytest.raises(GuestFileNotFoundError):
            await guest.files.chmod(guest.workspace / "missing", 0o600)
        with pytest.raises(GuestFileError):
            await guest.files.chmod(guest.workspace.parent / "usr", 0o777)

    @check("files.remove")
    async def test_files_remove(self, guest: Guest) -> None:
        """Files, links and empty directories are removed; a link's target stays."""
        await guest.make("target=kept", "link->target", "file=", "d/")
        pipe = ["pipe"] if await guest.pipe("pipe") else []
        for name in ("link", "file", "d", *pipe):
            await guest.files.remove(guest.workspace / name)
        assert await guest.ls() == ["target"]
        assert await guest.cat("target") == "kept"
        with pytest.raises(GuestFileNotFoundError):
            await guest.files.remove(guest.workspace / "file")

    @check("files.remove-full")
    async def test_files_remove_full(self, guest: Guest) -> None:
        """A directory with entries is not removed unless asked for."""
        await guest.make("d/", "d/file=kept")
        with pytest.raises(GuestFileError):
            await guest.files.remove(guest.workspace / "d")
        assert await guest.cat("d/file") == "kept"

    @check("files.remove-recursive")
    async def test_files_remove_recursive(self, guest: Guest) -> None:
        """A tree is removed as a whole, and nothing that its links point to."""
        await guest.make("d/sub/deep/", "other/kept/", "d/sub/deep/file=x", "other/kept/file=kept")
        await guest.make("d/sub/link->../../other", "d/file->../other/kept/file")
        await guest.files.remove(guest.workspace / "d", recursive=True)
        assert await guest.ls() == ["other"]
        await guest.make("link->other")
        await guest.files.remove(guest.workspace / "link", recursive=True)
        assert await guest.ls() == ["other"]
        assert await guest.cat("other/kept/file") == "kept"

    @check("files.remove-forbidden")
    async def test_files_remove_forbidden(self, guest: Guest) -> None:
        """What the sandbox's user may not remove stays and is an error."""
        await guest.make("d/", "d/file=")
        await guest.files.chmod(guest.workspace / "d", 0o500)
        with pytest.raises(GuestPermissionError):
            await guest.files.remove(guest.workspace / "d" / "file")
        assert await guest.ls("d") == ["file"]


class _Watcher:
    """Collects the events of one watch in the background."""

    def __init__(self, guest: Guest, path: PurePosixPath, *, recursive: bool = False) -> None:
        self._guest, self._path, self._recursive = guest, path, recursive
        self.seen: list[WatchEvent] = []
        self._news = anyio.Event()

    async def run(self) -> None:
        """Collect until cancelled."""
        async for event in self._guest.files.watch(self._path, recursive=self._recursive):
            self.seen.append(event)
            self._news.set()

    async def ready(self) -> None:
        """Wait until the watch is known to be in place: something that was touched is reported."""
        probe = self._path / f"ready-{secrets.token_hex(4)}"
        with soon(10):
            while not any(event.path == probe for event in self.seen):
                await self._guest.files.write(probe, b"")
                with anyio.move_on_after(0.1):
                    await self._news.wait()
                self._news = anyio.Event()

    async def wait(self, what: str, wanted: Callable[[WatchEvent], bool]) -> None:
        """Wait until an event came that is wanted."""
        looked_at = 0
        with anyio.move_on_after(stretched(5)):
            while True:
                while looked_at < len(self.seen):
                    looked_at += 1
                    if wanted(self.seen[looked_at - 1]):
                        return
                self._news = anyio.Event()
                await self._news.wait()
        msg = f"no event for {what}; the last ones: {self.seen[-20:]}"
        raise AssertionError(msg)


def _is(path: PurePosixPath, *kinds: WatchKind) -> Callable[[WatchEvent], bool]:
    return lambda event: event.path == path and event.kind in kinds


class WatchChecks(Checks):
    """Watching directories."""

    @check("watch.kinds", needs=Feature.WATCH)
    async def test_watch_kinds(self, guest: Guest) -> None:
        """Files that are made, changed, moved and removed by programs are reported with their path."""
        root = guest.workspace / "d"
        await guest.files.mkdir(root)
        watcher = _Watcher(guest, root)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.run)
            await watcher.ready()
            await guest.make("d/dir/", "d/file=one")
            await watcher.wait("mkdir", _is(root / "dir", WatchKind.CREATED))
            await watcher.wait("a new file", _is(root / "file", WatchKind.CREATED))
            await guest.says("with open('d/file', 'a') as file: file.write('two')")
            await watcher.wait("a change", _is(root / "file", WatchKind.MODIFIED))
            await guest.says("import os; os.rename('d/file', 'd/moved')")
            await watcher.wait("the old name", _is(root / "file", WatchKind.MOVED, WatchKind.REMOVED))
            await watcher.wait("the new name", _is(root / "moved", WatchKind.MOVED, WatchKind.CREATED))
            await guest.says("import os; os.remove('d/moved')")
            await watcher.wait("a removal", _is(root / "moved", WatchKind.REMOVED))
            tasks.cancel_scope.cancel()

    @check("watch.recursive", needs=Feature.WATCH)
    async def test_watch_recursive(self, guest: Guest) -> None:
        """A recursive watch sees directories below, those made later included."""
        root = guest.workspace / "d"
        await guest.files.mkdir(root / "old" / "deep")
        watcher = _Watcher(guest, root, recursive=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.run)
            await watcher.ready()
            await guest.make("d/old/deep/file=", "d/new/deeper/")
            await watcher.wait("a file deep below", _is(root / "old" / "deep" / "file", WatchKind.CREATED))
            await watcher.wait("a new directory", _is(root / "new", WatchKind.CREATED))
            await anyio.sleep(0.2)
            await guest.make("d/new/deeper/file=")
            await watcher.wait(
                "a file in a new directory",
                _is(root / "new" / "deeper" / "file", WatchKind.CREATED, WatchKind.MODIFIED),
            )
            tasks.cancel_scope.cancel()

    @check("watch.flat", needs=Feature.WATCH)
    async def test_watch_flat(self, guest: Guest) -> None:
        """A watch that isn't recursive says nothing about directories below."""
        root = guest.workspace / "d"
        await guest.files.mkdir(root / "sub")
        watcher = _Watcher(guest, root)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.run)
            await watcher.ready()
            await guest.make("d/sub/file=", "d/end=")
            await watcher.wait("the last file", _is(root / "end", WatchKind.CREATED))
            assert not any(event.path == root / "sub" / "file" for event in watcher.seen)
            tasks.cancel_scope.cancel()

    @check("watch.missing", needs=Feature.WATCH)
    async def test_watch_missing(self, guest: Guest) -> None:
        """Watching what is missing raises GuestFileNotFoundError."""
        with soon(), pytest.raises(GuestFileNotFoundError):
            async for _ in guest.files.watch(guest.workspace / "missing"):
                pass

    @check("watch.flood", needs=Feature.WATCH)
    async def test_watch_flood(self, guest: Guest) -> None:
        """Of more changes than are read, either all are reported or the loss is."""
        root = guest.workspace / "d"
        await guest.files.mkdir(root)
        watcher = _Watcher(guest, root)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.run)
            await watcher.ready()
            await guest.says("for i in range(5000): open('d/f%d' % i, 'w').close()\nopen('d/end', 'w').close()")

            def complete(event: WatchEvent) -> bool:
                return event.kind is WatchKind.LOST or event.path == root / "end"

            await watcher.wait("the last file or a loss", complete)
            created = {event.path.name for event in watcher.seen if event.kind is WatchKind.CREATED}
            lost = any(event.kind is WatchKind.LOST for event in watcher.seen)
            assert lost or {f"f{number}" for number in range(5000)} <= created
            tasks.cancel_scope.cancel()
