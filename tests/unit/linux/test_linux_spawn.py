"""Starting and ending helper processes on both event loops."""

from __future__ import annotations

import os
import signal
import sys
import time

import anyio
import pytest

from jubako.errors import LaunchError
from jubako.linux.procinfo import children, start_time
from jubako.linux.spawn import STDERR_CAP, Child, spawn

pytestmark = pytest.mark.anyio


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names, not paths


async def test_exit_code_and_stderr() -> None:
    before = open_descriptors()
    async with spawn(["/bin/sh", "-c", "echo oh no >&2; exit 7"]) as child:
        assert await child.wait() == 7
        assert (child.returncode, child.poll()) == (7, 7)
        assert child.stderr_text() == "oh no"
        assert await child.wait() == 7
    assert child.pid not in children(os.getpid())
    assert open_descriptors() == before


async def test_death_by_signal() -> None:
    async with spawn(["/bin/sleep", "60"]) as child:
        assert child.poll() is None
        assert child.returncode is None
        child.signal(signal.SIGTERM)
        assert await child.wait() == -signal.SIGTERM
        assert child.pidfd is None
        child.kill()  # gone: no error


async def test_many_tasks_may_wait() -> None:
    codes: list[int] = []

    async def waiter(child: Child) -> None:
        codes.append(await child.wait())

    async with spawn(["/bin/sh", "-c", "sleep 0.05; exit 3"]) as child, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(waiter, child)
    assert codes == [3] * 5


async def test_cancellation_leaves_no_zombie() -> None:
    child = None
    with anyio.move_on_after(0.05):
        async with spawn(["/bin/sleep", "60"]) as child:
            await child.wait()
    assert child is not None
    assert child.returncode == -signal.SIGKILL
    assert start_time(child.pid) is None  # not even a zombie


async def test_a_cancelled_wait_can_be_repeated() -> None:
    async with spawn(["/bin/sh", "-c", "sleep 0.1; exit 4"]) as child:
        with anyio.move_on_after(0.01) as scope:
            await child.wait()
        assert scope.cancelled_caught
        assert await child.wait() == 4


async def test_stderr_is_bounded_and_drained() -> None:
    script = f"import sys; sys.stderr.write('x' * {STDERR_CAP * 20}); sys.stderr.flush()"
    async with spawn([sys.executable, "-S", "-c", script]) as child, anyio.create_task_group() as tasks:
        tasks.start_soon(child.pump_stderr)
        with anyio.fail_after(20):
            assert await child.wait() == 0
    assert child.stderr_text() == "x" * STDERR_CAP


async def test_pump_ends_although_a_grandchild_holds_stderr() -> None:
    script = "sleep 60 & echo $!; exec >&-; exit 0"
    read, write = os.pipe()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, spawn(["/bin/sh", "-c", script], stdout=write) as child:
            tasks.start_soon(child.pump_stderr)
            assert await child.wait() == 0
            grandchild = int(os.read(read, 100))
    os.kill(grandchild, signal.SIGKILL)
    os.close(read)
    os.close(write)


async def test_stderr_text_is_safe_to_print() -> None:
    async with spawn(["/usr/bin/printf", r"\033[31mred\007 \377 ok\n"]) as child:
        await child.wait()
        assert child.stderr_text() == ""
    async with spawn(["/bin/sh", "-c", r"printf '\033[31mred\007 \377 ok\nnext\n' >&2"]) as child:
        assert await child.diagnostics() == "\\x1b[31mred\\x07 \ufffd ok\nnext"


async def test_diagnostics_do_not_wait_for_ever() -> None:
    async with spawn(["/bin/sleep", "60"]) as child:
        assert await child.diagnostics(patience=0.02) == "no message, exit status None"


async def test_nothing_is_inherited() -> None:
    os.environ["JUBAKO_TEST_SECRET"] = "leak"
    extra = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(extra, True)  # noqa: FBT003  # os takes it by position
    read, write = os.pipe()
    script = (
        "import os\n"
        "print(dict(os.environ), sorted(os.listdir('/proc/self/fd')), os.getcwd(), os.getsid(0) == os.getpid())"
    )
    try:
        async with spawn(
            [sys.executable, "-S", "-E", "-c", script], stdout=write, cwd="/usr", pass_fds=[read]
        ) as child:
            assert await child.wait() == 0, child.stderr_text()
        text = os.read(read, 65536).decode()
    finally:
        del os.environ["JUBAKO_TEST_SECRET"]
        for handle in (extra, read, write):
            os.close(handle)
    environment, _, rest = text.partition("} [")
    assert "SECRET" not in environment
    assert set(environment.strip("{").split()) <= {"'LC_CTYPE':", "'C.UTF-8'"}
    listing = rest.partition("]")[0]
    assert len(listing.split(",")) == 5  # 0, 1, 2, the one passed, and the directory being listed
    assert f"'{extra}'" not in listing or extra == read
    assert "/usr True" in rest


async def test_environment_is_what_was_given() -> None:
    async with spawn(["/bin/sh", "-c", "echo $A >&2"], env={"A": "given"}) as child:
        await child.wait()
        assert child.stderr_text() == "given"


@pytest.mark.parametrize("argv", [["/nowhere/program"], ["/etc/hostname"], ["/bin/true", "a\0b"]])
async def test_what_cannot_start_is_a_launch_error(argv: list[str]) -> None:
    before = open_descriptors()
    with pytest.raises(LaunchError, match="can't be started") as caught:
        spawn(argv)
    assert caught.value.details["program"] == argv[0]
    assert open_descriptors() == before


async def test_closing_twice_and_while_others_wait() -> None:
    child = spawn(["/bin/sleep", "60"])
    codes: list[int] = []

    async def waiter() -> None:
        codes.append(await child.wait())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiter)
        await anyio.sleep(0.01)
        await child.aclose()
        await child.aclose()
    assert codes == [-9]


async def test_waiting_takes_no_cpu() -> None:
    async with spawn(["/bin/sleep", "0.3"]) as child:
        before = time.process_time()
        await child.wait()
    assert time.process_time() - before < 0.2
    assert start_time(child.pid) is None
