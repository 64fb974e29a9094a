"""exec.*: how programs are started and how their end is reported."""

from __future__ import annotations

import signal
from collections.abc import Callable  # noqa: TC003  # resolved by nobody, but kept beside its use
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from jubako.boundary.contract import ExecRequest, Feature
from jubako.errors import InvalidRequestError, JubakoError
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import collect, eventually, marker, read_until, soon

if TYPE_CHECKING:
    from jubako.testing.conformance._guest import Guest

__all__ = ["ExecChecks"]

_EXIT: Final = "import sys; sys.exit(int(sys.argv[1]))"
_WHERE: Final = "import os, sys; sys.stdout.buffer.write(os.fsencode(os.getcwd()) + bytes([10]))"
_TALK: Final = """
import sys
sys.stdin.readline()
for number in range(200):
    print("%s-out-%d" % (sys.argv[1], number))
    print("%s-err-%d" % (sys.argv[1], number), file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
_SIGNALS: Final = """
import signal
set_by_python = {signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ}
print(*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))
print(*(int(item) for item in signal.valid_signals() - set_by_python if signal.getsignal(item) == signal.SIG_IGN))
"""
_TERMINALS: Final = """
import os
print(*(number for number in range(3) if os.isatty(number)))
try:
    os.open("/dev/tty", os.O_RDWR)
    print("controlling")
except OSError:
    pass
"""


class ExecChecks(Checks):
    """How programs are started and how their end is reported."""

    @check("exec.exit-code")
    async def test_exec_exit_code(self, guest: Guest) -> None:
        """An exit code comes back unchanged, also where shells and languages give it a meaning."""
        for code in (0, 1, 2, 42, 124, 125, 126, 127, 128, 137, 143, 255):
            status = (await guest.py(_EXIT, str(code))).status
            assert (status.code, status.signal) == (code, None)
            assert not status.timed_out
            assert not status.truncated
            assert not status.oom
            assert not status.limits

    @check("exec.exit-code-every", slow=True, timeout=60)
    async def test_exec_exit_code_every(self, guest: Guest) -> None:
        """Each of the 256 exit codes comes back unchanged."""
        for code in range(256):
            assert (await guest.py(_EXIT, str(code))).status.code == code

    @check("exec.signal-status", needs=Feature.PROCESSES)
    async def test_exec_signal_status(self, guest: Guest) -> None:
        """A program that dies of a signal has that signal and no code."""
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT):
            status = (await guest.sh(f"ulimit -c 0; kill -{int(number)} $$")).status
            assert (status.code, status.signal) == (None, number)

    @check("exec.missing-executable")
    async def test_exec_missing_executable(self, guest: Guest) -> None:
        """A missing executable is exit code 127 with a message, not an exception."""
        for name in ("no-such-program-anywhere", "/no/such/program", "./no-such-program", ""):
            status = (await guest.run(name)).status
            assert (status.code, status.signal) == (127, None)
            assert status.message, "the reason is missing"
        await guest.works()

    @check("exec.not-executable")
    async def test_exec_not_executable(self, guest: Guest) -> None:
        """A file without permission to execute is exit code 126 with a message."""
        path = guest.workspace / "plain"
        await guest.files.write(path, b"#!/bin/sh\nexit 0\n", mode=0o644)
        status = (await guest.run(str(path))).status
        assert (status.code, status.signal) == (126, None)
        assert status.message, "the reason is missing"

    @check("exec.directory-executable")
    async def test_exec_directory_executable(self, guest: Guest) -> None:
        """A directory as executable is exit code 126 with a message."""
        path = guest.workspace / "directory"
        await guest.files.mkdir(path)
        status = (await guest.run(str(path))).status
        assert (status.code, status.signal) == (126, None)
        assert status.message, "the reason is missing"

    @check("exec.script", needs=Feature.PROCESSES)
    async def test_exec_script(self, guest: Guest) -> None:
        """An executable script runs by its first line, by absolute path and relative to the working directory."""
        path = guest.workspace / "tool"
        await guest.files.write(path, b'#!/bin/sh\necho "ran $1"\n', mode=0o755)
        assert (await guest.run(str(path), "one")).text == "ran one"
        assert (await guest.run("./tool", "two", cwd=str(guest.workspace))).text == "ran two"

    @check("exec.path-lookup", needs=Feature.PROCESSES)
    async def test_exec_path_lookup(self, guest: Guest) -> None:
        """A name without a slash is looked up in the sandbox's PATH."""
        assert (await guest.run("cat", "/proc/self/comm")).text == "cat"

    @check("exec.cwd-default")
    async def test_exec_cwd_default(self, guest: Guest) -> None:
        """A program starts in the workspace."""
        assert await guest.says(_WHERE) == str(guest.workspace)

    @check("exec.cwd-given")
    async def test_exec_cwd_given(self, guest: Guest) -> None:
        """A program starts in the directory that was asked for."""
        await guest.files.mkdir(guest.workspace / "näher dran")
        for path in ("/tmp", "/", str(guest.workspace / "näher dran")):
            assert (await guest.py(_WHERE, cwd=path)).stdout == f"{path}\n".encode()

    @check("exec.cwd-missing")
    async def test_exec_cwd_missing(self, guest: Guest) -> None:
        """A missing working directory keeps the program from running, clearly said."""
        try:
            done = await guest.py("print('ran anyway')", cwd="/no/such/directory")
        except JubakoError:
            return
        assert done.status.code in {126, 127}
        assert done.status.message, "the reason is missing"
        assert b"ran" not in done.stdout

    @check("exec.invalid-request")
    async def test_exec_invalid_request(self, guest: Guest) -> None:
        """A malformed request raises InvalidRequestError, and the sandbox goes on."""
        requests: list[Callable[[], ExecRequest]] = [
            lambda: ExecRequest(()),
            lambda: ExecRequest(("python3", "a\0b")),
            lambda: ExecRequest(("python3", "\ud800")),
            lambda: ExecRequest(("python3",), env={"": "x"}),
            lambda: ExecRequest(("python3",), env={"A=B": "x"}),
            lambda: ExecRequest(("python3",), env={"A\0": "x"}),
            lambda: ExecRequest(("python3",), env={"A": "x\0y"}),
            lambda: ExecRequest(("python3",), cwd=PurePosixPath("/tmp\0")),
        ]
        for make in requests:
            with pytest.raises(InvalidRequestError):
                await collect(await guest.instance.exec(make()))
        await guest.works()

    @check("exec.user-unknown")
    async def test_exec_user_unknown(self, guest: Guest) -> None:
        """A user that doesn't exist inside is refused, and never quietly replaced by another."""
        try:
            done = await guest.py("print('ran anyway')", user="no-such-user")
        except JubakoError:
            return
        assert done.status.code in {126, 127}
        assert b"ran" not in done.stdout

    @check("exec.shared-files")
    async def test_exec_shared_files(self, guest: Guest) -> None:
        """Programs of one sandbox see each other's files."""
        await guest.make("shared=kept\n", "sub/", "sub/file=deep")
        assert await guest.cat("shared", "sub/file") == "kept\ndeep"

    @check("exec.concurrent")
    async def test_exec_concurrent(self, guest: Guest) -> None:
        """Two dozen programs at once each give their own output and status."""
        results: dict[int, tuple[bytes, bytes, int | None]] = {}
        processes = [await guest.start(*guest.python(_TALK, str(number)), stdin=True) for number in range(24)]

        async def one(number: int) -> None:
            done = await collect(processes[number], b"go\n")
            results[number] = (done.stdout, done.stderr, done.status.code)

        async with anyio.create_task_group() as tasks:
            for number in range(24):
                tasks.start_soon(one, number)
        for number in range(24):
            out = b"".join(b"%d-out-%d\n" % (number, line) for line in range(200))
            err = b"".join(b"%d-err-%d\n" % (number, line) for line in range(200))
            assert results[number] == (out, err, number)

    @check("exec.ids")
    async def test_exec_ids(self, guest: Guest) -> None:
        """Each program has an id of its own."""
        processes = [await guest.start(*guest.python("pass")) for _ in range(5)]
        assert all(process.id for process in processes)
        assert len({process.id for process in processes}) == len(processes)
        for process in processes:
            await collect(process)

    @check("exec.wait-twice")
    async def test_exec_wait_twice(self, guest: Guest) -> None:
        """Waiting again, or by several tasks at once, gives the same status."""
        process = await guest.start(*guest.python("import time; time.sleep(0.1); raise SystemExit(7)"))
        seen: list[int | None] = []

        async def wait() -> None:
            seen.append((await process.wait()).code)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
        first = await process.wait()
        assert [*seen, first.code] == [7] * 4
        assert await process.wait() == first

    @check("exec.wait-cancelled")
    async def test_exec_wait_cancelled(self, guest: Guest) -> None:
        """Cancelling a wait ends the wait only: the program goes on and can be waited for again."""
        process = await guest.start(*guest.python("print('got', input(), flush=True); raise SystemExit(3)"), stdin=True)
        with anyio.move_on_after(0.1) as scope:
            await process.wait()
        assert scope.cancelled_caught
        assert process.stdin is not None
        await process.stdin.send(b"word\n")
        assert await read_until(process.stdout, b"got word") == b"got word\n"
        assert (await process.wait()).code == 3

    @check("exec.cancelled")
    async def test_exec_cancelled(self, guest: Guest) -> None:
        """Cancelling the start of a program leaves no program, at whichever moment."""
        mark = marker()
        await guest.works()  # whatever comes with the first program is there now
        before = (await guest.instance.usage()).processes
        for attempt in range(24):
            with anyio.CancelScope() as scope:
                scope.deadline = anyio.current_time() + attempt * 0.0004
                process = await guest.idle(mark)
                scope.deadline = float("inf")
                await process.kill()

        async def gone() -> bool:
            now = (await guest.instance.usage()).processes
            return before is None or (now is not None and now <= before)

        await eventually(gone, "there are as many processes as before")
        if guest.has(Feature.PROCESSES):
            await guest.until_gone(mark)

    @check("exec.wait-background", needs=Feature.PROCESSES)
    async def test_exec_wait_background(self, guest: Guest) -> None:
        """A background child that holds the output open does not hold up the wait for its parent."""
        mark = marker()
        process = await guest.start(*guest.shell('sleep "$1" & echo started', mark))
        assert await read_until(process.stdout, b"started\n") == b"started\n"
        with soon():
            assert (await process.wait()).code == 0
        await process.kill()

    @check("exec.signals-default", needs=Feature.PROCESSES)
    async def test_exec_signals_default(self, guest: Guest) -> None:
        """A program starts with no signal blocked or ignored, SIGPIPE included."""
        assert await guest.says(_SIGNALS) == ""
        # Python sets these three at its start: whether they reach a shell tells.
        script = 'ulimit -c 0; for n in 2 13 25; do sh -c "kill -$n \\$\\$; echo ignored $n"; done 2>/dev/null; true'
        assert await guest.ok(script) == ""

    @check("exec.no-terminal")
    async def test_exec_no_terminal(self, guest: Guest) -> None:
        """Without a tty request a program has no terminal, also not through /dev/tty."""
        assert await guest.says(_TERMINALS) == ""

    @check("exec.no-zombies", needs=Feature.PROCESSES)
    async def test_exec_no_zombies(self, guest: Guest) -> None:
        """Programs and their orphans are reaped: no zombie stays."""
        for _ in range(5):
            await guest.ok("(sleep 0.01 &) ; (true &) ; true")

        async def reaped() -> bool:
            return await guest.ok("cat /proc/[0-9]*/stat 2>/dev/null | grep -c ' Z ' || true") == "0"

        await eventually(reaped, "all zombies are reaped")
