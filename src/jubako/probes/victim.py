"""A process of the host that a hostile program may want to kill, trace, read or rob."""

from __future__ import annotations

import os
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from jubako.probes.outside import end_outside

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["Victim", "victim"]

# It lets anybody trace it (where Yama asks), so that only namespaces and permissions protect it.
_SOURCE: Final = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1 & (2**64 - 1)), 0, 0, 0)
held = ctypes.create_string_buffer(sys.argv[1].encode())
fd = os.memfd_create("held", 0)
os.write(fd, sys.argv[1].encode())
sys.stdout.write("%d\\n" % ctypes.addressof(held))
sys.stdout.flush()
time.sleep(60)
"""


@dataclass(slots=True)
class Victim:
    """``address`` is where its memory holds the mark."""

    child: subprocess.Popen[bytes]
    address: int
    before: tuple[int, ...]

    def harmed(self) -> str:
        """Return what was done to it, or nothing."""
        if self.child.poll() is not None:
            return f"the host's process ended with {self.child.returncode}"
        if _state(self.child.pid) != self.before:
            return "the host's process was changed"
        return ""


def _state(pid: int) -> tuple[int, ...]:
    return (os.getpriority(os.PRIO_PROCESS, pid), len(os.sched_getaffinity(pid)))


@asynccontextmanager
async def victim(python: str, mark: str, identity: int | None) -> AsyncGenerator[Victim]:
    """Start one as ``identity`` (as the caller, for None) and end it in any case."""
    child = subprocess.Popen(  # noqa: ASYNC220  # it must start in this thread, and takes a millisecond
        [python, "-I", "-S", "-B", "-c", _SOURCE, mark],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd="/",
        env={"JUBAKO_VICTIM": mark},
        bufsize=0,
        start_new_session=True,
        user=identity,
        group=identity,
        extra_groups=None if identity is None else [],
    )
    try:
        assert child.stdout is not None  # noqa: S101  # a pipe was asked for
        with anyio.fail_after(10):
            await anyio.wait_readable(child.stdout.fileno())
        address = int(os.read(child.stdout.fileno(), 64) or b"0")
        yield Victim(child, address, _state(child.pid))
    finally:
        if child.returncode is None:
            await end_outside(child)
        elif child.stdout is not None:
            child.stdout.close()
