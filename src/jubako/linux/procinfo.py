"""Small readers of /proc: identity of processes that survives pid reuse, children, namespaces."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ProcessId",
    "boot_id",
    "children",
    "descendants",
    "namespace_inode",
    "parent_pid",
    "pids",
    "process_id",
    "processes_in_pidns",
    "read_file",
    "start_time",
]

_SIZE: Final = 1 << 16
_PARENT: Final = 1  # fields of /proc/<pid>/stat after the command's closing bracket: state, ppid, ...
_START: Final = 19


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for good: its pid, when it started (clock ticks since boot), and in which boot."""

    pid: int
    start: int
    boot: str

    def alive(self) -> bool:
        """Whether this very process still exists (a zombie does)."""
        return self.boot == boot_id() and start_time(self.pid) == self.start

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}-{self.boot[:8]}"


def read_file(path: str) -> bytes | None:
    """Return the file's content, or None when the process is gone or hidden."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        chunks: list[bytes] = []
        while chunk := os.read(handle, _SIZE):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError:
        return None
    finally:
        os.close(handle)


def _stat(pid: int) -> list[bytes] | None:
    text = read_file(f"/proc/{pid}/stat")
    # The command may hold spaces and brackets; nothing after its last bracket can.
    return text.rpartition(b")")[2].split() if text else None


def boot_id() -> str:
    """Return the id of the current boot."""
    return (read_file("/proc/sys/kernel/random/boot_id") or b"").decode("ascii", "replace").strip()


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone."""
    fields = _stat(pid)
    return int(fields[_START]) if fields else None


def parent_pid(pid: int) -> int | None:
    """Return the parent's pid; None when the process is gone."""
    fields = _stat(pid)
    return int(fields[_PARENT]) if fields else None


def process_id(pid: int | None = None) -> ProcessId | None:
    """Return the lasting identity of a process (of ourselves by default); None when it is gone."""
    pid = os.getpid() if pid is None else pid
    start = start_time(pid)
    return None if start is None else ProcessId(pid, start, boot_id())


def pids() -> Iterator[int]:
    """Yield the pid of every process that we can see."""
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def children(pid: int) -> frozenset[int]:
    """Return the pids of a process's children; empty when it is gone."""
    found: set[int] = set()
    with suppress(OSError), os.scandir(f"/proc/{pid}/task") as threads:
        for thread in threads:
            text = read_file(f"{thread.path}/children")
            if text is None:  # a kernel without CONFIG_PROC_CHILDREN
                return frozenset(other for other in pids() if parent_pid(other) == pid)
            found.update(map(int, text.split()))
    return frozenset(found)


def descendants(pid: int) -> frozenset[int]:
    """Return the pids of all processes below one; a snapshot that forks can outrun."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        new = children(todo.pop()) - found
        found |= new
        todo += new
    return frozenset(found)


def namespace_inode(pid: int, kind: str = "pid") -> int | None:
    """Return the inode that identifies a process's namespace; None when it is gone or hidden."""
    try:
        return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
    except OSError:
        return None


def processes_in_pidns(inode: int) -> frozenset[int]:
    """Return the pids of all visible processes in one pid namespace."""
    return frozenset(pid for pid in pids() if namespace_inode(pid) == inode)
