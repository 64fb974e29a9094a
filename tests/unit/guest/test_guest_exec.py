"""Programs inside, through a real agent."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from datetime import timedelta
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.boundary.contract import ExecRequest, TerminalSize
from jubako.errors import InstanceLostError, InvalidRequestError, LimitError, SandboxStateError
from jubako.guest import SessionConfig, SessionLimits

if TYPE_CHECKING:
    from conftest import OpenGuest

pytestmark = pytest.mark.anyio
SECOND = timedelta(seconds=1)


def mark() -> str:
    return f"3{int(token_hex(3), 16):08d}"


async def test_output_and_code_come_back(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        done = await guest.sh("printf out; printf err >&2; exit 7")
        assert (done.out, done.err, done.status.code, done.status.signal) == (b"out", b"err", 7, None)
        done = await guest.sh("kill -SEGV $$")
        assert (done.status.code, done.status.signal) == (None, signal.SIGSEGV)


async def test_agent_says_who_it_is(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        hello = guest.session.hello
        assert hello.protocol == 2
        assert hello.features == {"exec", "files", "ports", "tty", "usage", "watch"}
        assert (hello.pid, hello.uid) == ((1, 1000) if guest.pid1 else (guest.agent.pid, os.geteuid()))


async def test_what_cannot_start_is_a_status(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        done = await guest.run("no-such-program")
        assert (done.out, done.err, done.status.code) == (b"", b"", 127)
        assert done.status.message == "no-such-program: not found"
        await guest.session.files.write(PurePosixPath("plain"), b"echo hi\n")
        done = await guest.run("./plain")
        assert (done.status.code, done.status.message) == (126, "./plain: permission denied")
        await guest.session.files.chmod(PurePosixPath("plain"), 0o755)
        done = await guest.run("./plain")
        assert (done.status.code, done.status.message) == (
            126,
            "./plain: not a program: no known format and no #! line",
        )
        await guest.session.files.write(PurePosixPath("script"), b"#!/no/such\n", mode=0o755)
        done = await guest.run("./script")
        assert (done.status.code, done.status.message) == (126, "./script: its interpreter does not exist")
        done = await guest.run("true", cwd=PurePosixPath("/no/such/place"))
        assert (done.status.code, done.status.message) == (126, "working directory: No such file or directory")
        done = await guest.run("")
        assert done.status.code == 127


async def test_long_arguments(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        arguments = ["x" * 100] * 2500
        done = await guest.run("sh", "-c", 'echo $#; echo "$*" | wc -c', "sh", *arguments)
        assert done.out.split() == [b"2500", b"252500"]
        for size in (200_000, 3_000_000, 5_000_000):
            done = await guest.run("echo", "x" * size)
            assert (done.status.code, done.status.message) == (126, "echo: argument list too long")
        done = await guest.sh("echo still here")
        assert done.out == b"still here\n"


async def test_malformed_requests_are_refused(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        for request in (
            ExecRequest(argv=()),
            ExecRequest(argv=("a\0b",)),
            ExecRequest(argv=("true",), env={"A=B": "1"}),
            ExecRequest(argv=("true",), env={"A": "1\0"}),
            ExecRequest(argv=("true",), cwd=PurePosixPath("a\0b")),
            ExecRequest(argv=("true",), max_output=-1),
            ExecRequest(argv=("true",), timeout=timedelta(0)),
            ExecRequest(argv=("true",), tty=TerminalSize(0, 80)),
            ExecRequest(argv=("true",), user="no-such-user"),
        ):
            with pytest.raises(InvalidRequestError):
                await guest.session.exec(request)
        assert (await guest.sh("echo ok")).out == b"ok\n"


async def test_environment_is_what_was_given(open_guest: OpenGuest) -> None:
    async with open_guest(env={"BASE": "1", "BOTH": "base"}) as guest:
        done = await guest.run("env", env={"BOTH": "mine", "UML\u00c4UT": "\udcff"})
        lines = dict(line.split(b"=", 1) for line in done.out.splitlines())
        identity = lines.pop(b"JUBAKO_EXEC_ID")
        assert identity.count(b".") == 1
        assert lines == {
            b"BASE": b"1",
            b"BOTH": b"mine",
            "UML\u00c4UT".encode(): b"\xff",
            b"PATH": b"/usr/local/bin:/usr/bin:/bin",
        }


async def test_child_gets_a_clean_process(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        done = await guest.sh("ls /proc/self/fd; cat /proc/self/oom_score_adj; exec cat /proc/self/status")
        lines = done.out.decode().split("\n")
        assert lines[:4] == ["0", "1", "2", "3"], "3 is the directory that ls itself reads"
        assert int(lines[4]) >= 500
        facts = dict(line.split(":\t", 1) for line in lines[5:] if ":\t" in line)
        assert (int(facts["SigBlk"], 16), int(facts["SigCgt"], 16)) == (0, 0)
        # 32 and 33 belong to the C library, whose posix_spawn leaves them ignored.
        assert int(facts["SigIgn"], 16) & ~0x180000000 == 0
        assert facts["NoNewPrivs"] == "1"
        own = await guest.sh('sleep 0.2; cat "/proc/$1/oom_score_adj"', str(guest.session.hello.pid))
        assert int(own.out) < 500


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)
async def test_agent_cannot_be_looked_into(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        done = await guest.sh(
            "for f in environ maps mem fd/0 cwd exe; do cat /proc/1/$f >/dev/null && echo $f; done;"
            "kill -9 1; kill -STOP 1"
        )
        assert done.out == b""
        assert (await guest.sh("echo ok")).out == b"ok\n"


async def test_stdin_round_trip_with_backpressure(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        data = os.urandom(3_000_000)
        done = await guest.run("cat", data=data)
        assert done.out == data
        assert (await guest.run("cat")).out == b"", "without stdin there is nothing to read"


async def test_any_byte_stream_will_do(open_guest: OpenGuest) -> None:
    async with open_guest(plain=True) as guest:
        data = os.urandom(3_000_000)
        assert (await guest.run("cat", data=data)).out == data
        assert (await guest.sh("exit 3")).status.code == 3


async def test_stdin_of_a_program_that_does_not_care(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start("sh", "-c", "exec <&-; sleep 1000", stdin=True)
        assert process.stdin is not None
        with pytest.raises(anyio.BrokenResourceError):
            await process.stdin.send(b"x" * 10_000_000)
        await process.kill()
        with pytest.raises(anyio.BrokenResourceError):
            await process.stdin.send(b"x")
        await process.stdin.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await process.stdin.send(b"x")


async def test_terminal(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start(
            "sh", "-c", "tty; stty size; read x; echo got $x; stty size; read x; echo end",
            tty=TerminalSize(11, 22),
        )  # fmt: skip
        assert process.stdin is not None
        seen = b""

        async def until(text: bytes) -> None:
            nonlocal seen
            with anyio.fail_after(20):
                while text not in seen:
                    seen += await process.stdout.receive()

        await until(b"11 22\r\n")
        await until(b"pts/")
        await process.resize(TerminalSize(33, 44))
        await process.stdin.send(b"a\n")
        await until(b"got a\r\n")
        await until(b"33 44\r\n")
        await process.stdin.aclose()
        await until(b"end\r\n")
        assert (await process.wait()).code == 0
        with pytest.raises(anyio.EndOfStream):
            await process.stderr.receive()
        with pytest.raises(SandboxStateError):
            await (await guest.start("true")).resize(TerminalSize(1, 1))


async def test_timeout_kills_the_tree(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        name = mark()
        done = await guest.sh('echo begun; sleep "$1" & setsid sleep "$1" & sleep "$1"', name, timeout=0.3 * SECOND)
        assert done.out == b"begun\n"
        assert (done.status.signal, done.status.timed_out, done.status.limits) == (9, True, frozenset({"time.exec"}))
        await guest.until_alive(name, 0)


DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
null = os.open(os.devnull, os.O_RDWR)
for fd in (0, 1, 2): os.dup2(null, fd)
if sys.argv[2] == "shed":
    os.execve("/bin/sleep", ["sleep", sys.argv[1]], {})
os.execv("/bin/sleep", ["sleep", sys.argv[1]])
"""


@pytest.mark.parametrize("how", ["keep", "shed"])
async def test_kill_finds_daemons(open_guest: OpenGuest, how: str) -> None:
    async with open_guest() as guest:
        name = mark()
        process = await guest.start("python3", "-I", "-S", "-c", DAEMON, name, how)
        assert (await process.wait()).code == 0
        await guest.until_alive(name, 1)
        await process.kill()
        assert await guest.alive(name) == 0


async def test_kill_spares_other_programs(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        first, second = mark(), mark()
        one = await guest.start("sh", "-c", 'setsid sleep "$1" & sleep "$1"', "sh", first)
        two = await guest.start("sh", "-c", 'setsid sleep "$1" & sleep "$1"', "sh", second)
        await guest.until_alive(first, 3)
        await guest.until_alive(second, 3)
        await one.kill()
        assert (await one.wait()).signal == 9
        await one.kill()
        assert await guest.alive(first) == 0
        assert await guest.alive(second) == 3
        await two.kill()


RUNAWAY = """
import os
for _ in range(3): os.fork()
while True:
    if os.fork(): os._exit(0)
    os.setsid()
"""


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)  # outside, nothing would stop it if this fails
async def test_kill_stops_a_runaway(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        name = mark()
        process = await guest.start("python3", "-I", "-S", "-c", RUNAWAY, name)
        await anyio.sleep(0.2)
        await process.kill()
        assert await guest.alive(name) == 0
        assert guest.hooks.kills == 0


async def test_signal_reaches_all(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start(
            "sh",
            "-c",
            "trap 'echo parent; wait' USR1;"
            "sh -c 'trap \"echo child; exit\" USR1; echo up; while :; do sleep 0.05; done' & wait; wait",
        )
        assert await process.stdout.receive() == b"up\n"
        await process.signal(signal.SIGUSR1)
        seen = b""
        async for part in process.stdout:
            seen += part
        assert sorted(seen.split()) == [b"child", b"parent"]
        await process.signal(signal.SIGTERM)
        for number in (0, -1, 65):
            with pytest.raises(InvalidRequestError):
                await process.signal(number)


async def test_exit_is_told_at_once_and_background_lives(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        name = mark()
        process = await guest.start("sh", "-c", 'sleep "$1" & echo started', "sh", name)
        with anyio.fail_after(5):
            assert (await process.wait()).code == 0
            seen = b""
            async for part in process.stdout:
                seen += part
        assert seen == b"started\n"
        assert await guest.alive(name) == 1
        await process.kill()
        assert await guest.alive(name) == 0


async def test_background_writers_do_not_die(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start("sh", "-c", "(sleep 0.5; head -c 1000000 /dev/zero; echo $? > done) & echo first")
        assert (await process.wait()).code == 0
        with anyio.fail_after(10):
            while not (await guest.sh("cat done")).out:  # noqa: ASYNC110  # another kernel's file sets no event
                await anyio.sleep(0.05)
        assert (await guest.sh("cat done")).out == b"0\n"


async def test_straggling_output_is_kept(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        done = await guest.sh("(sleep 0.05; printf late) & printf early")
        assert done.out == b"earlylate"


async def test_output_at_exit_waits_for_the_reader(open_guest: OpenGuest) -> None:
    limits = SessionLimits(window=65536)
    async with open_guest(limits=limits) as guest:
        process = await guest.start("head", "-c", "100000", "/dev/zero")
        assert (await process.wait()).code == 0
        await anyio.sleep(0.4)
        size = 0
        async for part in process.stdout:
            size += len(part)
        assert size == 100_000


@pytest.mark.parametrize("size", [99_999, 100_000, 100_001])
async def test_output_limit_is_exact(open_guest: OpenGuest, size: int) -> None:
    async with open_guest() as guest:
        done = await guest.sh(f"head -c {size - 10} /dev/zero; head -c 10 /dev/zero >&2", max_output=100_000)
        over = size > 100_000
        assert len(done.out) + len(done.err) == min(size, 100_000)
        assert (done.status.code, done.status.truncated) == (0, over)
        assert done.status.limits == ({"resource.output"} if over else set())


async def test_output_limit_is_known_before_anybody_reads(open_guest: OpenGuest) -> None:
    async with open_guest(limits=SessionLimits(window=65536)) as guest:
        process = await guest.start("head", "-c", "120000", "/dev/zero", max_output=100_000)
        status = await process.wait()
        assert status.truncated
        assert "resource.output" in status.limits


async def test_flood_is_drained(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        done = await guest.run("head", "-c", "100000000", "/dev/zero", max_output=1_000_000)
        assert (len(done.out), done.status.code, done.status.truncated) == (1_000_000, 0, True)
        done = await guest.run("head", "-c", "30000000", "/dev/zero", max_output=0)
        assert (done.out, done.status.code, done.status.truncated) == (b"", 0, True)


async def test_output_limit_can_kill(open_guest: OpenGuest) -> None:
    async with open_guest(on_limit="kill") as guest:
        done = await guest.run("cat", "/dev/zero", max_output=1000)
        assert (done.out, done.status.signal, done.status.truncated) == (bytes(1000), 9, True)


async def test_closing_an_output_lets_the_program_run(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start("sh", "-c", "head -c 5000000 /dev/zero && echo fine >&2")
        await process.stdout.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await process.stdout.receive()
        assert await process.stderr.receive() == b"fine\n"
        assert (await process.wait()).code == 0


async def test_many_at_once(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:

        async def one(number: int) -> None:
            done = await guest.sh(f"echo {number}; exit {number}")
            assert (done.out, done.status.code) == (f"{number}\n".encode(), number)

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(one, number)


async def test_requests_are_bounded(open_guest: OpenGuest) -> None:
    async with open_guest(limits=SessionLimits(streams=3)) as guest:
        running = [await guest.start("sleep", "1000") for _ in range(3)]
        with pytest.raises(LimitError):
            await guest.start("true")
        for process in running:
            await process.signal(signal.SIGTERM)
            await process.kill()
        assert (await guest.sh("echo ok")).out == b"ok\n"


async def test_other_users(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        own = guest.session.hello.uid
        assert (await guest.run("id", "-u", user=str(own))).out == b"%d\n" % own
        if own:
            with pytest.raises(InvalidRequestError, match="only root"):
                await guest.start("true", user="0")
        else:
            done = await guest.run("sh", "-c", "id -u; id -G", user="nobody")
            assert done.out == b"65534\n65534\n"
            assert (await guest.run("id", "-u", user="4711")).out == b"4711\n"


async def test_killing_what_never_started(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        name = mark()
        daemon = await guest.start("python3", "-I", "-S", "-c", DAEMON, name, "shed")
        await daemon.wait()
        await guest.until_alive(name, 1)
        for argv in (("no-such-program",), ("echo", "x" * 5_000_000)):
            process = await guest.start(*argv)
            await process.kill()
            await process.signal(signal.SIGTERM)
        assert await guest.alive(name) == 1
        await daemon.kill()
        assert await guest.alive(name) == 0


async def test_cancelled_exec_is_killed(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        name = mark()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await guest.start("sh", "-c", 'setsid sleep "$1" & sleep "$1"', "sh", name)
        await guest.until_alive(name, 0)
        assert not guest.hooks.violations
        assert (await guest.sh("echo ok")).out == b"ok\n"


async def test_cancelled_wait_leaves_the_program(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start("sh", "-c", "read x; exit 5", stdin=True)
        with anyio.move_on_after(0.05):
            await process.wait()
        assert process.stdin is not None
        await process.stdin.send(b"\n")
        assert (await process.wait()).code == 5
        assert (await process.wait()).code == 5


async def test_limits_are_told_from_counters(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        guest.hooks.counters["resource.memory"] = 3
        process = await guest.start("sh", "-c", "read x; kill -9 $$", stdin=True)
        guest.hooks.counters["resource.memory"] = 4
        assert process.stdin is not None
        await process.stdin.send(b"\n")
        status = await process.wait()
        assert (status.signal, status.oom, status.limits) == (9, True, frozenset({"resource.memory"}))
        done = await guest.sh("kill -9 $$")
        assert (done.status.oom, done.status.limits) == (False, frozenset())


async def test_resource_limits_are_set(open_guest: OpenGuest) -> None:
    async with open_guest(rlimits={4: (0, 0), 7: (100, 100), 1: (1 << 20, 1 << 20)}) as guest:
        done = await guest.sh("ulimit -c; ulimit -n; ulimit -f")
        assert done.out.split()[:2] == [b"0", b"100"]
        with contextlib.suppress(ValueError):
            assert int(done.out.split()[2]) in {1024, 2048}
        done = await guest.run("no-such-program")
        assert done.status.code == 127
        done = await guest.run("/")
        assert done.status.code == 126
        assert (await guest.run("cat", data=b"forked")).out == b"forked"
        done = await guest.run("sh", "-c", "tty", tty=TerminalSize(5, 5))
        assert done.out.startswith(b"/dev/pts/")


async def test_usage(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        before = await guest.session.usage()
        assert before.processes == 1
        await guest.py("x = 0\nfor i in range(3000000): x += i")
        sleeper = await guest.start("sleep", "1000")
        after = await guest.session.usage()
        assert after.processes == 2
        assert before.cpu is not None
        assert after.cpu is not None
        assert after.cpu - before.cpu > timedelta(milliseconds=20)
        assert after.memory is not None
        assert after.memory > 1_000_000
        await sleeper.kill()


async def test_shutdown_is_graceful(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start("sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done")
        assert await process.stdout.receive() == b"up\n"
        await guest.session.shutdown(timedelta(seconds=10))
        assert (await process.wait()).code == 3
        assert guest.session.failure is None
        assert guest.session.closed.is_set()
        with pytest.raises(InstanceLostError):
            await guest.start("true")
        await guest.session.shutdown(timedelta(0))


async def test_shutdown_ends_the_stubborn(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.02; done")
        assert await process.stdout.receive() == b"up\n"
        begun = time.monotonic()
        await guest.session.shutdown(timedelta(seconds=0.2))
        assert 0.2 <= time.monotonic() - begun < 4
        assert (await process.wait()).signal == 9
        assert guest.agent.wait(5) == 0


async def test_closing_ends_everything(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        name = mark()
        process = await guest.start("sh", "-c", 'setsid sleep "$1" & echo up; sleep "$1"', "sh", name)
        assert await process.stdout.receive() == b"up\n"
        await guest.session.aclose()
        with pytest.raises(InstanceLostError):
            await process.wait()
        with pytest.raises(InstanceLostError):
            await process.stdout.receive()
        await process.kill()
        assert guest.agent.wait(5) == 0
        assert not _with_argument(name)


def _with_argument(name: str) -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if name.encode() in _content(path)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)
async def test_death_of_the_agent_is_seen(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start("sleep", "1000")
        guest.agent.kill()
        with anyio.fail_after(5):
            with pytest.raises(InstanceLostError):
                await process.wait()
            await guest.session.closed.wait()
        assert isinstance(guest.session.failure, InstanceLostError)
        with pytest.raises(InstanceLostError):
            await guest.session.files.stat(PurePosixPath("x"))
        await process.kill()


async def test_sigterm_stops_the_agent_in_order(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process = await guest.start("sleep", "1000")
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
            os.kill(guest.agent_pid(), number)
        assert (await guest.sh("echo ok")).out == b"ok\n"
        os.kill(guest.agent_pid(), signal.SIGTERM)
        assert (await process.wait()).signal == signal.SIGTERM
        await guest.session.closed.wait()
        assert guest.session.failure is not None
        assert guest.session.failure.message == "the sandbox was stopped"


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)
async def test_unconfirmed_kill_kills_the_sandbox(open_guest: OpenGuest) -> None:
    async with open_guest(limits=SessionLimits(kill=timedelta(seconds=0.3))) as guest:
        process = await guest.start("sleep", "1000")
        os.kill(guest.agent_pid(), signal.SIGSTOP)
        await process.kill()
        assert guest.hooks.kills == 1
        assert isinstance(guest.session.failure, InstanceLostError)
        with pytest.raises(InstanceLostError):
            await process.wait()


async def test_config_defaults_are_usable() -> None:
    config = SessionConfig()
    assert config.limits.window >= 65536
    assert config.landlock is None
