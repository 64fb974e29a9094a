"""usage.*: figures about what a sandbox uses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from jubako.boundary.contract import Enforcement
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import read_until, stretched

if TYPE_CHECKING:
    from typing import TypeVar

    from jubako.testing.conformance._guest import Guest

    _Figure = TypeVar("_Figure", int, timedelta)

__all__ = ["UsageChecks"]

_MIB = 1024 * 1024
_BUSY: Final = "import time\nwhile time.process_time() < 0.3: pass"
_FILL: Final = """
import sys
for name, size in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    with open(name, "wb") as file:
        file.write(bytes(size))
"""


def _told(guest: Guest, control: str, *figures: _Figure | None) -> tuple[_Figure, ...] | None:
    """Return the figures, or None when they are missing and the plan owns that nothing counts them."""
    known = tuple(item for item in figures if item is not None)
    if len(known) == len(figures):
        return known
    level = guest.level(control)
    assert level is not Enforcement.ENFORCED, (
        f"{control} is enforced as a whole, so something counts it; no figure came"
    )
    return None


class UsageChecks(Checks):
    """Figures about what a sandbox uses. One may be missing only where the plan says that nothing counts it."""

    @check("usage.time")
    async def test_usage_time(self, guest: Guest) -> None:
        """Figures carry the moment they were taken, with its time zone."""
        before = datetime.now(UTC)
        usage = await guest.instance.usage()
        assert usage.at.tzinfo is not None
        assert before - timedelta(seconds=1) <= usage.at <= datetime.now(UTC) + timedelta(seconds=1)

    @check("usage.cpu")
    async def test_usage_cpu(self, guest: Guest) -> None:
        """A busy program shows in the CPU time, which never falls."""
        busy = timedelta(seconds=0.25)
        before = (await guest.instance.usage()).cpu
        figures: tuple[timedelta, ...] | None = None
        for _ in range(4):  # where a program knows no CPU time of its own it counts the machine's other work too
            assert (await guest.py(_BUSY)).status.code == 0
            figures = _told(guest, "resource.cpu", before, (await guest.instance.usage()).cpu)
            if figures is None or figures[1] - figures[0] >= busy:
                break
        if figures is not None:
            assert figures[1] - figures[0] >= busy
            assert figures[1] < timedelta(seconds=stretched(10))

    @check("usage.memory")
    async def test_usage_memory(self, guest: Guest) -> None:
        """Memory that a program holds shows; the peak keeps it when it is given back."""
        before = await guest.instance.usage()
        code = "import sys; data = b'x' * (96 << 20); print('held', flush=True); sys.stdin.read()"
        process = await guest.start(*guest.python(code), stdin=True)
        await read_until(process.stdout, b"held")
        held = await guest.instance.usage()
        await process.kill()
        await process.wait()
        after = await guest.instance.usage()
        memory = _told(guest, "resource.memory", before.memory, held.memory)
        if memory is not None:
            assert memory[1] - memory[0] >= 80 * _MIB
        peak = _told(guest, "resource.memory", held.memory_peak, after.memory_peak)
        if peak is not None:
            assert all(item >= 80 * _MIB for item in peak)

    @check("usage.processes")
    async def test_usage_processes(self, guest: Guest) -> None:
        """Running programs are counted."""
        before = (await guest.instance.usage()).processes
        processes = [await guest.idle() for _ in range(5)]
        during = (await guest.instance.usage()).processes
        for process in processes:
            await process.kill()
            await process.wait()
        after = (await guest.instance.usage()).processes
        figures = _told(guest, "resource.processes", before, during, after)
        if figures is not None:
            assert figures[1] - figures[0] == 5
            assert figures[2] == figures[0]

    @check("usage.disk")
    async def test_usage_disk(self, guest: Guest) -> None:
        """What is written shows in the disk figure, and what is removed goes from it."""
        before = (await guest.instance.usage()).disk
        await guest.says(_FILL, "file", "8388608", "/tmp/file", "4194304")
        during = (await guest.instance.usage()).disk
        await guest.says("import os; os.remove('file'); os.remove('/tmp/file')")
        after = (await guest.instance.usage()).disk
        figures = _told(guest, "resource.disk", before, during, after)
        if figures is not None:
            assert 8 * _MIB <= figures[1] - figures[0] < 16 * _MIB
            assert figures[2] - figures[0] < _MIB
