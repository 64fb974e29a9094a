"""tty.*: programs with a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from jubako.boundary.contract import Feature, TerminalSize
from jubako.errors import InvalidRequestError, SandboxStateError
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import collect, marker, read_all, read_until, soon

if TYPE_CHECKING:
    from jubako.testing.conformance._guest import Guest

__all__ = ["TerminalChecks"]

_SHELL: Final = frozenset({Feature.PROCESSES, Feature.TTY})
_SIZE = TerminalSize(rows=31, columns=107)


class TerminalChecks(Checks):
    """Programs with a terminal."""

    @check("tty.is-terminal", needs=_SHELL)
    async def test_tty_is_terminal(self, guest: Guest) -> None:
        """All three standard streams are one terminal, which is also the controlling one."""
        script = "test -t 0 && test -t 1 && test -t 2 && echo yes > /dev/tty; exit 3"
        done = await guest.sh(script, tty=_SIZE)
        assert done.stdout == b"yes\r\n"
        assert done.status.code == 3

    @check("tty.size", needs=_SHELL)
    async def test_tty_size(self, guest: Guest) -> None:
        """The terminal has the size that was asked for."""
        assert (await guest.sh("stty size", tty=_SIZE)).text == "31 107"

    @check("tty.resize", needs=_SHELL)
    async def test_tty_resize(self, guest: Guest) -> None:
        """Resizing changes the size and tells the program by SIGWINCH."""
        script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"
        process = await guest.start(*guest.shell(script), tty=_SIZE)
        await read_until(process.stdout, b"ready")
        await process.resize(TerminalSize(rows=50, columns=4000))
        await read_until(process.stdout, b"50 4000")
        await process.kill()

    @check("tty.resize-refused")
    async def test_tty_resize_refused(self, guest: Guest) -> None:
        """Resizing a program without a terminal raises SandboxStateError."""
        process = await guest.idle()
        with pytest.raises(SandboxStateError):
            await process.resize(_SIZE)
        await process.kill()

    @check("tty.size-invalid", needs=Feature.TTY)
    async def test_tty_size_invalid(self, guest: Guest) -> None:
        """A size outside 1 to 4096 is refused."""
        for rows, columns in ((0, 80), (24, -1), (24, 4097), (70_000, 80)):
            with pytest.raises(InvalidRequestError):
                await collect(await guest.idle(tty=TerminalSize(rows=rows, columns=columns)))

    @check("tty.echo", needs=_SHELL)
    async def test_tty_echo(self, guest: Guest) -> None:
        """What is typed is echoed and reaches the program by lines; Ctrl-D ends it."""
        process = await guest.start(*guest.shell("read line; echo got $line; cat"), tty=_SIZE, stdin=True)
        assert process.stdin is not None
        await process.stdin.send(b"word\n")
        assert await read_until(process.stdout, b"got word\r\n") == b"word\r\ngot word\r\n"
        await process.stdin.send(b"\x04")
        with soon():
            assert (await process.wait()).code == 0

    @check("tty.interrupt", needs=_SHELL)
    async def test_tty_interrupt(self, guest: Guest) -> None:
        """Ctrl-C interrupts the program in the foreground."""
        process = await guest.start(
            *guest.shell("trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"),
            tty=_SIZE,
            stdin=True,
        )
        await read_until(process.stdout, b"ready")
        assert process.stdin is not None
        await process.stdin.send(b"\x03")
        await read_until(process.stdout, b"caught")
        assert (await process.wait()).code == 9

    @check("tty.merged", needs=_SHELL)
    async def test_tty_merged(self, guest: Guest) -> None:
        """Standard output carries both streams in order, and standard error is at its end at once."""
        process = await guest.start(*guest.shell("echo out; echo err >&2; echo out; sleep 60"), tty=_SIZE)
        with soon():
            assert await read_all(process.stderr) == b""
        assert await read_until(process.stdout, b"err\r\nout\r\n") == b"out\r\nerr\r\nout\r\n"
        await process.kill()

    @check("tty.session", needs=Feature.TTY)
    async def test_tty_session(self, guest: Guest) -> None:
        """The program leads a session of its own, in the foreground of its terminal."""
        code = "import os; print(os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpgrp())"
        assert (await guest.py(code, tty=_SIZE)).stdout == b"True True\r\n"

    @check("tty.job-control", needs=_SHELL)
    async def test_tty_job_control(self, guest: Guest) -> None:
        """A shell has job control: it can put programs in groups of their own and into the foreground."""
        done = await guest.sh("set -m; sleep 0.01 & fg >/dev/null; echo status $?", tty=_SIZE)
        assert done.stdout.endswith(b"status 0\r\n"), done.stdout

    @check("tty.kill", needs=_SHELL)
    async def test_tty_kill(self, guest: Guest) -> None:
        """Kill ends the tree of a program with a terminal, and its output ends."""
        mark = marker()
        process = await guest.start(
            *guest.shell('trap "" HUP; sleep "$1" & setsid sleep "$1" & echo ready; sleep "$1"', mark), tty=_SIZE
        )
        await read_until(process.stdout, b"ready")
        await guest.until_alive(mark, 3)
        await process.kill()
        with soon():
            await read_all(process.stdout)
            assert (await process.wait()).signal == 9
        await guest.until_gone(mark)

    @check("tty.output-limit", needs=_SHELL)
    async def test_tty_output_limit(self, guest: Guest) -> None:
        """The output limit holds for terminals too."""
        done = await guest.sh("head -c 100000 /dev/zero; exit 6", tty=_SIZE, max_output=5000)
        assert len(done.stdout) == 5000
        assert done.status.truncated
        assert done.status.code == 6
