"""time.*, kill.*, signals.*, background.*: how programs are ended, with all that they started."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from jubako.boundary.contract import Feature
from jubako.errors import InvalidRequestError
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import collect, eventually, host_processes, marker, read_until, soon, stretched
from jubako.testing.conformance._programs import IDLE

if TYPE_CHECKING:
    from jubako.testing.conformance._guest import Guest

__all__ = ["EndingChecks", "SignalChecks"]

TREE: Final = """
sleep "$1" &
(sleep "$1" &)
setsid sleep "$1" &
(setsid sh -c 'trap "" TERM HUP INT; (sleep "$1" &) ; wait; sleep "$1"' sh "$1" &)
echo ready
sleep "$1"
"""
"""A program with a child, an orphan, a session of its own, and a stubborn one with an orphan."""

TREE_SIZE: Final = 8

_BREEDER: Final = """
import os, sys, time
print("ready", flush=True)
for _ in range(400):
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.002)
time.sleep(60)
"""
"""Runs away: a chain of forks, each in a session of its own, whose parent is gone at once."""


_BEGINS: Final = """
import sys, time
print("begun", flush=True)
print("warned", file=sys.stderr, flush=True)
time.sleep(60)
"""
_STUBBORN: Final = """
import time
try:
    import signal
    for name in ("SIGTERM", "SIGINT", "SIGHUP"): signal.signal(getattr(signal, name), signal.SIG_IGN)
except (AttributeError, ImportError, OSError, ValueError):
    pass
print("ready", flush=True)
while True: time.sleep(1)
"""
"""Ignores every signal it can, where there are any."""


class EndingChecks(Checks):
    """Time limits, kill, and what goes on in the background."""

    @check("time.exec", timeout=10)
    async def test_time_exec(self, guest: Guest) -> None:
        """A program over its time is killed and its status says so."""
        status = (await guest.py(IDLE, timeout=0.2)).status
        assert status.timed_out
        assert (status.code, status.signal) == (None, signal.SIGKILL)
        assert "time.exec" in status.limits

    @check("time.unused")
    async def test_time_unused(self, guest: Guest) -> None:
        """A program within its time is not touched by the limit."""
        status = (await guest.py("raise SystemExit(3)", timeout=stretched(20))).status
        assert status.code == 3
        assert not status.timed_out
        assert not status.limits

    @check("time.output-kept", timeout=10)
    async def test_time_output_kept(self, guest: Guest) -> None:
        """What a program wrote before its time ran out is kept."""
        done = await guest.py(_BEGINS, timeout=stretched(0.6))
        assert done.status.timed_out
        assert (done.stdout, done.stderr) == (b"begun\n", b"warned\n")

    @check("time.tree", needs=Feature.PROCESSES, timeout=10)
    async def test_time_tree(self, guest: Guest) -> None:
        """The time limit ends the whole tree: children, orphans, other sessions, stubborn ones."""
        mark = marker()
        process = await guest.start(*guest.shell(TREE, mark), timeout=stretched(0.8))
        await guest.until_alive(mark, TREE_SIZE)
        assert (await process.wait()).timed_out
        await guest.until_gone(mark)

    @check("time.background", timeout=10)
    async def test_time_background(self, guest: Guest) -> None:
        """The time limit of one program leaves the other programs alone."""
        other = await guest.echo()
        assert (await guest.py(IDLE, timeout=0.1)).status.timed_out
        await guest.answers(other)
        await other.kill()

    @check("kill.program")
    async def test_kill_program(self, guest: Guest) -> None:
        """Kill ends a program that ignores every signal it can, and its status is SIGKILL."""
        process = await guest.start(*guest.python(_STUBBORN))
        await read_until(process.stdout, b"ready")
        await process.kill()
        with soon():
            status = await process.wait()
        assert (status.code, status.signal) == (None, signal.SIGKILL)
        assert not status.timed_out

    @check("kill.tree", needs=Feature.PROCESSES)
    async def test_kill_tree(self, guest: Guest) -> None:
        """Kill ends the whole tree: children, orphans, other sessions, stubborn ones."""
        mark = marker()
        process = await guest.start(*guest.shell(TREE, mark))
        await guest.until_alive(mark, TREE_SIZE)
        await process.kill()
        assert (await process.wait()).signal == signal.SIGKILL
        await guest.until_gone(mark)

    @check("kill.runaway", needs=Feature.PROCESSES)
    async def test_kill_runaway(self, guest: Guest) -> None:
        """Kill also ends a program that forks away from it all the time."""
        mark = marker()
        process = await guest.start(*guest.python(_BREEDER, mark))
        await read_until(process.stdout, b"ready")
        await anyio.sleep(0.05)
        await process.kill()
        await guest.until_gone(mark)

    @check("kill.idempotent")
    async def test_kill_idempotent(self, guest: Guest) -> None:
        """Killing again, or after the end, is no error and changes nothing."""
        process = await guest.idle()
        await process.kill()
        await process.kill()
        status = await process.wait()
        await process.kill()
        assert await process.wait() == status
        ended = await guest.start(*guest.python("raise SystemExit(4)"))
        assert (await ended.wait()).code == 4
        await ended.kill()
        assert (await ended.wait()).code == 4

    @check("kill.spares-others")
    async def test_kill_spares_others(self, guest: Guest) -> None:
        """Kill leaves programs that were started separately alone."""
        other = await guest.echo()
        process = await guest.idle()
        await process.kill()
        assert (await process.wait()).signal == signal.SIGKILL
        await guest.answers(other)
        await other.kill()

    @check("background.survives", needs={Feature.BACKGROUND, Feature.PROCESSES})
    async def test_background_survives(self, guest: Guest) -> None:
        """What a program leaves in the background lives on after the program's normal end."""
        mark = marker()
        await guest.ok('(setsid sleep "$1" >/dev/null 2>&1 &)', mark)
        await anyio.sleep(0.2)
        assert await guest.alive(mark) == 1

    @check("background.ends", needs=Feature.PROCESSES)
    async def test_background_ends(self, guest: Guest) -> None:
        """Nothing that was left in the background outlives the sandbox."""
        mark = marker()
        process = await guest.start(*guest.shell(TREE, mark))
        await read_until(process.stdout, b"ready")
        await guest.instance.destroy()

        async def gone() -> bool:
            return not host_processes(mark)

        await eventually(gone, "the host sees no process of the sandbox")


class SignalChecks(Checks):
    """Signals to running programs."""

    @check("signals.handler", needs={Feature.PROCESSES, Feature.SIGNALS})
    async def test_signals_handler(self, guest: Guest) -> None:
        """A signal reaches the program's own handler."""
        script = "trap 'echo got $1' $1; echo ready; while :; do sleep 0.01; done"
        for name, number in (("TERM", 15), ("INT", 2), ("USR1", 10), ("HUP", 1)):
            process = await guest.start(*guest.shell(script, name))
            await read_until(process.stdout, b"ready\n")
            await process.signal(number)
            await read_until(process.stdout, b"got " + name.encode())
            await process.kill()

    @check("signals.default", needs=Feature.SIGNALS)
    async def test_signals_default(self, guest: Guest) -> None:
        """A signal without a handler ends the program, and the status names it."""
        process = await guest.idle()
        await process.signal(signal.SIGTERM)
        with soon():
            status = await process.wait()
        assert (status.code, status.signal) == (None, signal.SIGTERM)

    @check("signals.tree", needs={Feature.PROCESSES, Feature.SIGNALS})
    async def test_signals_tree(self, guest: Guest) -> None:
        """A signal reaches the program's descendants too, orphans and other sessions included."""
        child = 'trap "echo got $1; exit 0" USR1; echo ready; while :; do sleep 0.01; done'
        script = """
            trap : USR1
            sh -c "$1" sh child & (setsid sh -c "$1" sh orphan &)
            echo ready
            while :; do sleep 1; done
        """
        process = await guest.start(*guest.shell(script, child))
        seen = b""
        while seen.count(b"ready\n") < 3:
            seen += await process.stdout.receive()
        await process.signal(signal.SIGUSR1)
        seen = b""
        with soon():
            while not (b"got child" in seen and b"got orphan" in seen):
                seen += await process.stdout.receive()
        await process.kill()

    @check("signals.after-exit", needs=Feature.SIGNALS)
    async def test_signals_after_exit(self, guest: Guest) -> None:
        """Signalling a program that has ended is no error."""
        process = await guest.start(*guest.python("pass"))
        done = await collect(process)
        await process.signal(signal.SIGTERM)
        await process.signal(signal.SIGKILL)
        assert await process.wait() == done.status

    @check("signals.invalid", needs=Feature.SIGNALS)
    async def test_signals_invalid(self, guest: Guest) -> None:
        """A number that is no signal is refused, and the program goes on."""
        process = await guest.echo()
        for number in (-1, 65, 100_000):
            with pytest.raises(InvalidRequestError):
                await process.signal(number)
        await guest.answers(process)
        await process.kill()
