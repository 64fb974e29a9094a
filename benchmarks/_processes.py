"""Memory of the processes that this one started, as the kernel counts it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["children", "proportional_mib"]


def children(of: int | None = None) -> set[int]:
    """Return the processes whose parent is ``of`` (this process, if left out)."""
    parent = os.getpid() if of is None else of
    return {pid for pid, its in _parents().items() if its == parent}


def proportional_mib(roots: set[int]) -> float:
    """Return the proportional set size of the processes and all their descendants, in MiB.

    Memory that several processes share counts for each by its share. Raises PermissionError where the
    kernel does not tell (processes of another user, seen by an ordinary user).
    """
    parents = _parents()
    family = set(roots)
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(_pss_kib(pid) for pid in family) / 1024


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name stands in parentheses and may hold anything, so count from its end.
            found[int(entry.parent.name)] = int(entry.read_text(encoding="latin-1").rpartition(")")[2].split()[1])
    return found


def _pss_kib(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
