"""Control files: few system calls, no buffering, no path objects."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Tree", "read", "read_number", "read_table", "wait_event", "wait_until", "write", "write_back"]

_SIZE: Final = 65536
_LONGEST_NAP: Final = 0.01


class Tree:
    """Makes and removes group directories; tests put a populated fake in its place."""

    def make(self, path: str) -> None:
        """Make one group. Raises FileExistsError or another OSError."""
        Path(path).mkdir()

    def remove(self, path: str) -> None:
        """Remove one empty group. Raises OSError."""
        Path(path).rmdir()


def read(path: str) -> str:
    """Return the whole text of a control file."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks: list[bytes] = []
        while chunk := os.read(handle, _SIZE):
            chunks.append(chunk)
        return b"".join(chunks).decode("ascii", "replace")
    finally:
        os.close(handle)


def read_number(path: str) -> int | None:
    """Return the number in a control file, or None when the file is missing or says something else."""
    try:
        return int(read(path))
    except (OSError, ValueError):
        return None


def read_table(path: str) -> dict[str, int]:
    """Return the "name number" lines of a control file; empty when it is missing."""
    try:
        text = read(path)
    except OSError:
        return {}
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def write(path: str, text: str) -> None:
    """Write one value."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def write_back(path: str, text: str) -> str:
    """Write one value and return what the kernel then says."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
        return os.pread(handle, _SIZE, 0).decode("ascii", "replace").strip()
    finally:
        os.close(handle)


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Return whether ``condition`` came true in time, asking ever more slowly."""
    end = time.monotonic() + timeout
    nap = 0.0002
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(nap)
        nap = min(nap * 2, _LONGEST_NAP)
    return True


def wait_event(path: str, key: str, value: int, timeout: float) -> bool:
    """Return whether ``key`` of a v2 ``cgroup.events`` file reached ``value`` in time; True when it is gone.

    Asks instead of polling: the kernel holds notifications back for up to 10 ms.
    """
    line = f"{key} {value}"

    def reached() -> bool:
        try:
            return line in read(path).splitlines()
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENODEV}:
                return True
            raise

    return wait_until(reached, timeout)
