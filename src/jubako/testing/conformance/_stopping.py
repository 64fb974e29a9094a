"""stop.* and loss.*: instances that are asked to end, and those that die unasked."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jubako.boundary.contract import Feature
from jubako.errors import InstanceLostError, JubakoError, SandboxStateError
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import host_processes, marker, read_all, read_until, soon, stretched
from jubako.testing.conformance._lifecycle import refuses

if TYPE_CHECKING:
    from jubako.testing.conformance._guest import Guest

__all__ = ["StopChecks"]


def _child_above(pid: int) -> int | None:
    """Return the child of this very process that ``pid`` descends from, if any."""
    while pid > 1:
        try:
            parent = int((Path("/proc") / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            return None
        if parent == os.getpid():
            return pid
        pid = parent
    return None


async def _crash(guest: Guest) -> None:
    """Kill a sandbox from outside, as the kernel or an operator would; skips where the host can't see it."""
    mark = marker()
    await guest.answers(await guest.echo(mark))
    # A boundary with a kernel of its own hides what runs inside, but not the programs that make it.
    seen = host_processes(mark) or host_processes(guest.instance.ref.handle)
    victims = {pid for pid in map(_child_above, seen) if pid is not None}
    if not victims:
        pytest.skip("the programs inside don't descend from this process: no way to crash the sandbox from here")
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


class StopChecks(Checks):
    """Instances that are asked to end, and those that die unasked."""

    @check("stop.graceful", needs=Feature.PROCESSES)
    async def test_stop_graceful(self, guest: Guest) -> None:
        """A stop sends SIGTERM and lets handlers finish; what they write and return arrives."""
        script = "exec 2>/dev/null; trap 'sleep 0.1; echo bye; exit 6' TERM; echo ready; while :; do sleep 0.01; done"
        process = await guest.start(*guest.shell(script))
        await read_until(process.stdout, b"ready\n")
        with soon(10):
            await guest.instance.stop(grace=timedelta(seconds=8))
            assert await read_all(process.stdout) == b"bye\n"
            assert (await process.wait()).code == 6

    @check("stop.stubborn", needs=Feature.PROCESSES)
    async def test_stop_stubborn(self, guest: Guest) -> None:
        """What doesn't end within the grace is killed, with everything that was started."""
        mark = marker()
        script = 'trap "" TERM HUP INT; setsid sleep "$1" & echo ready; while :; do sleep 1; done'
        process = await guest.start(*guest.shell(script, mark))
        await guest.until_alive(mark, 2)
        with soon(10):
            await guest.instance.stop(grace=timedelta(seconds=0.2))
            assert (await process.wait()).signal == signal.SIGKILL
        assert host_processes(mark) == []

    @check("stop.prompt")
    async def test_stop_prompt(self, guest: Guest) -> None:
        """A stop doesn't wait out its grace when nothing runs any more."""
        process = await guest.idle()
        with soon(10):
            await guest.instance.stop(grace=timedelta(seconds=stretched(60)))
            assert (await process.wait()).signal == signal.SIGTERM

    @check("loss.noticed")
    async def test_loss_noticed(self, guest: Guest) -> None:
        """A sandbox that dies unasked is noticed at once: by who waits for it and by each call."""
        process = await guest.echo()
        await _crash(guest)
        with soon():
            assert (await guest.instance.wait()).code not in {"", "destroyed"}
            with pytest.raises(InstanceLostError):
                await process.wait()
            await refuses(guest.instance, InstanceLostError, SandboxStateError)

    @check("loss.destroy")
    async def test_loss_destroy(self, guest: Guest) -> None:
        """A sandbox that died is destroyed like any other, and still tells why it died."""
        await _crash(guest)
        with soon(10):
            why = await guest.instance.wait()
            await guest.instance.destroy()
            assert await guest.instance.wait() == why

    @check("loss.first-process", needs=Feature.PROCESSES)
    async def test_loss_first_process(self, guest: Guest) -> None:
        """Code inside that attacks the first process ends its own sandbox, cleanly, or nothing."""
        for number in (15, 2, 11, 9):
            try:
                await guest.sh(f"kill -{number} 1; kill -{number} -1")
                await guest.works()
            except JubakoError:
                with soon():
                    assert (await guest.instance.wait()).code != "destroyed"
                return
