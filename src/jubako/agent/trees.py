"""Requests over whole directories: SCAN, REMOVE and the receiving side of WRITE."""

from __future__ import annotations

import errno
import posix
import sys

from . import core, files, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Tuple

_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC | posix.O_NOFOLLOW
_SLICE = 64
"""Directory entries handled per turn of the loop."""
_DEPTH = 32
"""Directories that a removal holds open at once; deeper ones are first moved up."""
_ENCODING = sys.getfilesystemencoding()


def _encode(name: str) -> bytes:
    return name.encode(_ENCODING, "surrogateescape")


def scan(stream: core.JobStream, path: bytes, recursive: int) -> Iterator[bool]:
    """Serve SCAN: one ENTRY per name, with paths relative to the directory."""
    root = files.open_directory(stream.agent.workspace, path)
    try:
        todo = [b""]
        while todo:
            prefix = todo.pop()
            try:
                fd = posix.open(prefix or b".", _DIRECTORY, dir_fd=root)
            except (FileNotFoundError, NotADirectoryError):
                # Removed or replaced since it was listed.
                continue
            try:
                below: List[bytes] = []
                yield from _scan_one(stream, fd, prefix, below)
            finally:
                posix.close(fd)
            if recursive:
                todo.extend(below)
    finally:
        posix.close(root)


def _scan_one(stream: core.JobStream, fd: int, prefix: bytes, below: List[bytes]) -> Iterator[bool]:
    """Send the entries of one directory and collect the directories among them."""
    count = 0
    with posix.scandir(fd) as entries:
        for entry in entries:
            name = _encode(entry.name)
            relative = prefix + b"/" + name if prefix else name
            if len(relative) > wire.PATH_MAX:
                raise OSError(errno.ENAMETOOLONG, "")
            try:
                fields = files.lookup(name, fd)
            except FileNotFoundError:
                continue
            if fields[0] == wire.KIND_DIRECTORY:
                below.append(relative)
            payload = wire.encode(wire.ENTRY, (relative, *fields))
            while stream.window < len(payload):
                yield False
            stream.window -= len(payload)
            stream.agent.send(wire.ENTRY, stream.ident, payload)
            count += 1
            if count % _SLICE == 0:
                yield True


def remove(stream: core.JobStream, path: bytes, recursive: int) -> Iterator[bool]:
    """Serve REMOVE: links are removed as links, trees are emptied through descriptors."""
    parent, name = files.open_parent(stream.agent.workspace, path)
    try:
        if not _is_directory(name, parent):
            posix.unlink(name, dir_fd=parent)
            return
        if recursive:
            top = posix.open(name, _DIRECTORY, dir_fd=parent)
            try:
                yield from _empty(top)
            finally:
                posix.close(top)
        posix.rmdir(name, dir_fd=parent)
    finally:
        posix.close(parent)


def _is_directory(name: bytes, fd: int) -> bool:
    return posix.stat(name, dir_fd=fd, follow_symlinks=False).st_mode & 0o170000 == 0o040000


def _empty(top: int) -> Iterator[bool]:
    stack = [top]
    moved = 0
    try:
        while stack:
            names = _first_names(stack[-1])
            if not names:
                fd = stack.pop()
                if fd != top:
                    posix.close(fd)
                continue
            for name in names:
                if _remove_one(name, stack[-1]):
                    continue
                if len(stack) < _DEPTH:
                    stack.append(posix.open(name, _DIRECTORY, dir_fd=stack[-1]))
                    break
                # Any depth in a bounded number of descriptors: hang the subtree higher up.
                moved += 1
                posix.rename(
                    name, ".jubako-removed-%d-%d" % (posix.getpid(), moved), src_dir_fd=stack[-1], dst_dir_fd=top
                )
            yield True
    finally:
        for fd in stack:
            if fd != top:
                posix.close(fd)


def _first_names(fd: int) -> List[str]:
    names: List[str] = []
    with posix.scandir(fd) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) >= _SLICE:
                break
    return names


def _remove_one(name: str, fd: int) -> bool:
    """Remove an entry. Returns False for a directory that is not empty."""
    try:
        posix.unlink(name, dir_fd=fd)
    except IsADirectoryError:
        try:
            posix.rmdir(name, dir_fd=fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
    except FileNotFoundError:
        pass
    return True


class WriteStream(core.Stream):
    """WRITE: into a temporary file beside the target, which replaces it in one step at EOF."""

    def __init__(self, agent: core.Agent, ident: int) -> None:
        core.Stream.__init__(self, agent, ident)
        self._parent = -1
        self._fd = -1
        self._names: Tuple[bytes, bytes] = (b"", b"")
        self._taken = 0

    def open(self, path: bytes, mode: int) -> None:
        """Make the temporary file. Raises OSError."""
        self._parent, name = files.open_parent(self.agent.workspace, path, make=True)
        temporary = b".jubako-%s" % posix.urandom(8).hex().encode()
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
        self._fd = posix.open(temporary, flags, 0o600, dir_fd=self._parent)
        self._names = (temporary, name)
        posix.fchmod(self._fd, mode)

    def on_data(self, data: bytes) -> None:
        """Write; files take everything or fail."""
        try:
            view = memoryview(data)
            while view:
                view = view[posix.write(self._fd, view) :]
        except OSError as error:
            self._fail(error)
            return
        self._taken += len(data)
        if self._taken >= self.agent.window // 4:
            self.send(wire.CREDIT, 0, self._taken)
            self._taken = 0

    def on_eof(self, _channel: int = 0) -> None:
        """Put the finished file in its place."""
        temporary, name = self._names
        try:
            posix.rename(temporary, name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        except OSError as error:
            self._fail(error)
            return
        self._close()
        self.end()

    def on_close(self) -> None:
        """Leave nothing behind."""
        self._drop()
        self.end(wire.END_CANCELLED)

    def _fail(self, error: OSError) -> None:
        self._drop()
        self.end_with(error)

    def _drop(self) -> None:
        try:
            posix.unlink(self._names[0], dir_fd=self._parent)
        except OSError:
            # Gone already: somebody inside removed or renamed it.
            pass
        self._close()

    def _close(self) -> None:
        for fd in (self._fd, self._parent):
            if fd >= 0:
                posix.close(fd)
        self._fd = self._parent = -1

    def abandon(self) -> None:
        """Release what a failed ``open`` left."""
        self._close()
