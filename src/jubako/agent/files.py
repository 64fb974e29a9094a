"""File requests, each a generator that works in small slices and never follows a link on removal."""

from __future__ import annotations

import errno
import posix

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Tuple

    from .core import JobStream, Stream

_FMT, _REG, _DIR, _LNK = 0o170000, 0o100000, 0o040000, 0o120000
_OPEN = posix.O_CLOEXEC | posix.O_NOCTTY | posix.O_NONBLOCK
_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC
_SLICE = 64
"""Directory entries handled per turn of the loop."""


def absolute(workspace: bytes, path: bytes) -> bytes:
    """Return where a path of a request is; relative ones are below the workspace."""
    if b"\0" in path:
        raise OSError(errno.EINVAL, "")
    if path.startswith(b"/"):
        return path
    if b".." in path.split(b"/"):
        raise OSError(errno.EXDEV, "")
    return workspace + b"/" + path if path not in (b"", b".") else workspace


def _inside(fd: int, path: bytes, workspace: bytes) -> None:
    """Refuse an object that a relative path reached through a link out of the workspace."""
    if path.startswith(b"/"):
        return
    real = posix.readlink(b"/proc/self/fd/%d" % fd)
    root = posix.open(workspace, _DIRECTORY)
    try:
        base = posix.readlink(b"/proc/self/fd/%d" % root)
    finally:
        posix.close(root)
    if real != base and not real.startswith(base.rstrip(b"/") + b"/"):
        raise OSError(errno.EXDEV, "")


def open_directory(workspace: bytes, path: bytes) -> int:
    """Return a descriptor of a directory, checked by ``_inside``."""
    fd = posix.open(absolute(workspace, path), _DIRECTORY)
    try:
        _inside(fd, path, workspace)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def open_parent(workspace: bytes, path: bytes, *, make: bool = False) -> Tuple[int, bytes]:
    """Return a descriptor of the parent directory and the last name of a path."""
    head, _, name = path.rstrip(b"/").rpartition(b"/")
    if name in (b"", b".", b".."):
        raise OSError(errno.EISDIR if make else errno.EBUSY, "")
    if path.startswith(b"/") and not head:
        head = b"/"
    if make:
        make_directories(workspace, head, 0o755)
    return open_directory(workspace, head), name


def make_directories(workspace: bytes, path: bytes, mode: int) -> None:
    """Make a directory with its parents; one that exists is fine."""
    full = absolute(workspace, path)
    missing: List[bytes] = []
    while True:
        try:
            fd = posix.open(full, _DIRECTORY)
            break
        except FileNotFoundError:
            full, _, name = full.rstrip(b"/").rpartition(b"/")
            if name == b"..":
                raise
            missing.append(name)
            full = full or b"/"
    try:
        _inside(fd, path, workspace)
        while missing:
            name = missing.pop()
            try:
                posix.mkdir(name, 0o755 if missing else mode, dir_fd=fd)
                if not missing:
                    posix.chmod(name, mode, dir_fd=fd)
            except FileExistsError:
                pass
            below = posix.open(name, _DIRECTORY | posix.O_NOFOLLOW, dir_fd=fd)
            posix.close(fd)
            fd = below
    finally:
        posix.close(fd)


def describe(status: posix.stat_result, target: bytes) -> Tuple[int, int, int, int, bytes]:
    """Return the fields of INFO."""
    kind = {_REG: wire.KIND_FILE, _DIR: wire.KIND_DIRECTORY, _LNK: wire.KIND_SYMLINK}.get(
        status.st_mode & _FMT, wire.KIND_OTHER
    )
    return kind, status.st_size, status.st_mode & 0o7777, status.st_mtime_ns, target[: wire.PATH_MAX]


def lookup(name: bytes, dir_fd: Optional[int]) -> Tuple[int, int, int, int, bytes]:
    """Return the fields of INFO for an entry itself; a link is not followed."""
    status = posix.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    target = b""
    if status.st_mode & _FMT == _LNK:
        try:
            target = posix.readlink(name, dir_fd=dir_fd)
        except OSError:
            # Replaced between the two calls; the kind alone is still what stat saw.
            pass
    return describe(status, target)


def stat(stream: Stream, path: bytes) -> None:
    """Serve STAT."""
    workspace = stream.agent.workspace
    if absolute(workspace, path).strip(b"/") and path.rstrip(b"/") not in (b"", b".") and not path.endswith(b".."):
        parent, name = open_parent(workspace, path)
        try:
            fields = lookup(name, parent)
        finally:
            posix.close(parent)
    else:
        fields = lookup(absolute(workspace, path), None)
    stream.send(wire.INFO, *fields)


def read(stream: JobStream, path: bytes, offset: int, length: int) -> Iterator[bool]:
    """Serve READ: INFO, then the bytes. Only regular files: a FIFO or device could block or never end."""
    workspace = stream.agent.workspace
    fd = posix.open(absolute(workspace, path), posix.O_RDONLY | _OPEN)
    try:
        status = posix.fstat(fd)
        if status.st_mode & _FMT != _REG:
            raise OSError(errno.EISDIR if status.st_mode & _FMT == _DIR else errno.EINVAL, "")
        _inside(fd, path, workspace)
        stream.send(wire.INFO, *describe(status, b""))
        while length > 0:
            count = min(length, stream.window, wire.MAX_DATA)
            if count <= 0:
                yield False
                continue
            data = posix.pread(fd, count, offset)
            if not data:
                break
            stream.window -= len(data)
            offset += len(data)
            length -= len(data)
            stream.agent.send(wire.DATA, stream.ident, data)
            yield True
    finally:
        posix.close(fd)


def mkdir(stream: Stream, path: bytes, mode: int, parents: int) -> None:
    """Serve MKDIR."""
    workspace = stream.agent.workspace
    if parents:
        make_directories(workspace, path, mode)
    else:
        parent, name = open_parent(workspace, path)
        try:
            posix.mkdir(name, mode, dir_fd=parent)
            posix.chmod(name, mode, dir_fd=parent)
        finally:
            posix.close(parent)


def move(stream: Stream, source: bytes, target: bytes, overwrite: int) -> None:
    """Serve MOVE: within one file system by rename, across two refused with EXDEV."""
    workspace = stream.agent.workspace
    from_fd, from_name = open_parent(workspace, source)
    try:
        to_fd, to_name = open_parent(workspace, target)
        try:
            if not overwrite:
                _refuse_existing(to_fd, to_name)
            posix.rename(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        finally:
            posix.close(to_fd)
    finally:
        posix.close(from_fd)


def _refuse_existing(dir_fd: int, name: bytes) -> None:
    try:
        posix.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    raise OSError(errno.EEXIST, "")


def chmod(stream: Stream, path: bytes, mode: int) -> None:
    """Serve CHMOD, on the object that a link leads to."""
    workspace = stream.agent.workspace
    fd = posix.open(absolute(workspace, path), posix.O_PATH | posix.O_CLOEXEC)
    try:
        _inside(fd, path, workspace)
        posix.chmod(b"/proc/self/fd/%d" % fd, mode)
    finally:
        posix.close(fd)
