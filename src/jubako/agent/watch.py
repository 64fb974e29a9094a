"""Changes below a directory, from inotify."""

from __future__ import annotations

import errno
import posix
import select
import sys

from . import files, native, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Tuple

    from .core import JobStream

_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_OVERFLOW, _IGNORED, _ISDIR = 0x4000, 0x8000, 0x40000000
_ONLYDIR, _DONT_FOLLOW = 0x01000000, 0x02000000
_MASK = _MODIFY | _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF
_FLAGS = posix.O_NONBLOCK | posix.O_CLOEXEC
_MAX_WATCHES = 8192
_CHUNK = 65536


class _Watcher:
    def __init__(self, stream: JobStream, *, recursive: bool) -> None:
        self.stream = stream
        self.recursive = recursive
        self.fd = native.call("inotify_init1", _FLAGS)
        self.base = b""
        self.dirs: Dict[int, bytes] = {}
        self.lost = False
        self.last: Tuple[int, bytes] = (-1, b"")

    def add(self, relative: bytes) -> bool:
        """Watch one directory."""
        if len(self.dirs) >= _MAX_WATCHES:
            return False
        path = self.base + b"/" + relative
        try:
            number = native.call("inotify_add_watch", self.fd, path, _MASK | _ONLYDIR | _DONT_FOLLOW)
        except OSError:
            return False
        self.dirs[number] = relative
        return True

    def tell(self, kind: int, path: bytes) -> None:
        """Report a change, or remember that one went unseen when the host has no room for it."""
        if (kind, path) == self.last and kind == wire.CHANGE_MODIFIED:
            return
        payload = wire.encode(wire.CHANGE, (kind, path))
        if self.lost or self.stream.window < len(payload) or len(path) > wire.PATH_MAX:
            self.lost = True
            return
        self.stream.window -= len(payload)
        self.last = (kind, path)
        self.stream.agent.send(wire.CHANGE, self.stream.ident, payload)

    def catch_up(self) -> None:
        """Say that changes were lost as soon as the host has room again."""
        payload = wire.encode(wire.CHANGE, (wire.CHANGE_LOST, b""))
        if self.lost and self.stream.window >= len(payload):
            self.stream.window -= len(payload)
            self.lost = False
            self.last = (-1, b"")
            self.stream.agent.send(wire.CHANGE, self.stream.ident, payload)


def watch(stream: JobStream, path: bytes, recursive: int) -> Iterator[bool]:
    """Serve WATCH until the host closes it or the directory itself is removed."""
    watcher = _Watcher(stream, recursive=bool(recursive))
    try:
        root = files.open_directory(stream.agent.workspace, path)
        try:
            # By name and not through the descriptor: a directory that is held open is never seen to go.
            watcher.base = posix.readlink(b"/proc/self/fd/%d" % root)
            if not watcher.add(b""):
                raise OSError(errno.ENOSPC, "")
        finally:
            posix.close(root)
        stream.agent.watch_fd(watcher.fd, select.EPOLLIN, lambda _events: stream.step())
        if recursive:
            # In one go, though it may take a while: later requests rely on a watch that stands.
            for _ in _add_tree(watcher, b"", announce=False):
                pass
        while True:
            watcher.catch_up()
            try:
                data = posix.read(watcher.fd, _CHUNK)
            except BlockingIOError:
                yield False
                continue
            fresh, gone = _handle(watcher, data)
            for relative in fresh:
                yield from _add_tree(watcher, relative, announce=True)
            if gone:
                return
            yield True
    finally:
        stream.agent.forget_fd(watcher.fd)
        posix.close(watcher.fd)


def _add_tree(watcher: _Watcher, top: bytes, *, announce: bool) -> Iterator[bool]:
    """Watch a directory and those below it; what was made before the watch stood is announced."""
    todo = [top]
    while todo:
        relative = todo.pop()
        if relative and not watcher.add(relative):
            # Gone again, or more directories than can be watched.
            watcher.lost = True
            continue
        try:
            with posix.scandir(watcher.base + b"/" + relative) as entries:
                for entry in entries:
                    full = relative + b"/" + entry.name if relative else entry.name
                    if announce:
                        watcher.tell(wire.CHANGE_CREATED, full)
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(full)
        except OSError:
            continue
        yield True


def _handle(watcher: _Watcher, data: bytes) -> Tuple[List[bytes], bool]:
    """Report the events in ``data``; return new directories to watch and whether the root is gone."""
    fresh: List[bytes] = []
    at = 0
    gone = False
    while at < len(data):
        number = int.from_bytes(data[at : at + 4], sys.byteorder, signed=True)
        mask = int.from_bytes(data[at + 4 : at + 8], sys.byteorder)
        size = int.from_bytes(data[at + 12 : at + 16], sys.byteorder)
        name = data[at + 16 : at + 16 + size].rstrip(b"\0")
        at += 16 + size
        if mask & _OVERFLOW:
            watcher.lost = True
            continue
        prefix = watcher.dirs.get(number)
        if prefix is None:
            continue
        if mask & _IGNORED:
            del watcher.dirs[number]
            gone = gone or prefix == b""
            continue
        if not name:
            continue
        full = prefix + b"/" + name if prefix else name
        if mask & _ISDIR and watcher.recursive and mask & (_CREATE | _MOVED_TO):
            fresh.append(full)
        for bit, kind in (
            (_CREATE, wire.CHANGE_CREATED),
            (_MOVED_TO, wire.CHANGE_CREATED),
            (_MOVED_FROM, wire.CHANGE_MOVED),
            (_DELETE, wire.CHANGE_REMOVED),
            (_MODIFY | _ATTRIB, wire.CHANGE_MODIFIED),
        ):
            if mask & bit:
                watcher.tell(kind, full)
    watcher.catch_up()
    return fresh, gone
