"""The blocking API: generated, and over one shared thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from jubako import Sandbox, SandboxState, doctor, explain
from jubako.errors import InvalidPolicyError, SandboxStateError
from jubako.sync.bridge import close_shared_bridge

pytestmark = pytest.mark.driver("bwrap")

ROOT = Path(__file__).parents[2]


def script(code: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False)


def test_generated_source_is_up_to_date() -> None:
    result = subprocess.run([sys.executable, "scripts/gen_sync.py", "--check"], cwd=ROOT, check=False)
    assert result.returncode == 0


def test_the_first_page_of_the_manual() -> None:
    with Sandbox(boundary="process") as box:
        assert box.run("print(6 * 7)").stdout == "42\n"
        box.files.write("data.csv", b"a,b\n1,2\n")
        box.files.write("job.py", "for line in open('data.csv'): print('row', line, end='', flush=True)")
        process = box.exec(["python3", "-u", "job.py"], timeout=60)
        assert list(process.stdout) == ["row a,b\n", "row 1,2\n"]
        assert process.wait().code == 0
        assert box.state is SandboxState.RUNNING
    assert str(box.state) == "destroyed"


def test_everything_that_a_process_can_do() -> None:
    with Sandbox(boundary="process", name="sync", labels={"a": "b"}) as box, box.exec(["cat"], stdin=True) as process:
        process.stdin.write("one\n")
        assert process.stdout.readline() == "one\n"
        process.stdin.write(b"two")
        process.stdin.close()
        assert process.stdout.receive() == b"two"
        assert process.stderr.read() == ""
        result = box.exec(["sh", "-c", "cat; echo bad >&2; exit 4"], stdin=True).result("in")
        assert (result.stdout, result.stderr, result.exit_code) == ("in", "bad\n", 4)
        sleeper = box.exec(["sleep", "60"])
        sleeper.signal(signal.SIGTERM)
        assert sleeper.wait().signal == signal.SIGTERM
        assert b"".join(box.files.stream("/etc/passwd")) == box.files.read("/etc/passwd")
        assert box.usage().at is not None
        assert box.card().boundary.driver == "bwrap"
        assert box.expires is not None


def test_watch_is_closed_by_leaving_it() -> None:
    with Sandbox(boundary="process") as box:
        box.files.mkdir("seen")
        started = threading.Event()

        def work() -> None:
            started.wait()
            for number in range(400):
                box.files.write(f"seen/{number}", "x")
                if done.wait(0.05):
                    return

        done = threading.Event()
        thread = threading.Thread(target=work)
        thread.start()
        with closing(box.files.watch("seen")) as events:
            started.set()
            first = next(events)
        done.set()
        thread.join()
        assert first.path.parent.name == "seen" or str(first.path).isdigit()


def test_many_threads_share_one_bridge() -> None:
    results: list[str] = []

    def work(number: int) -> None:
        with Sandbox(boundary="process") as box:
            results.append(box.run(f"print({number})").stdout)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{number}\n" for number in range(8)]
    assert len([thread for thread in threading.enumerate() if thread.name == "jubako-bridge"]) == 1


def test_errors_cross_the_bridge_as_they_are() -> None:
    with pytest.raises(InvalidPolicyError):
        Sandbox(boundary="process", policy={"nonsense": 1})
    with pytest.raises(ZeroDivisionError), Sandbox(boundary="process") as box:
        box.run(str(1 // 0))
    assert str(box.state) == "destroyed"


def test_explicit_start_and_destroy() -> None:
    box = Sandbox(boundary="process")
    box.start()
    assert box.run("print(1)").ok
    box.destroy()
    box.destroy()
    with pytest.raises(SandboxStateError):
        box.run("print(1)")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_inside_an_event_loop_it_refuses_with_the_other_spelling(backend: str) -> None:
    made = Sandbox(boundary="process")

    async def main() -> None:
        with pytest.raises(SandboxStateError, match="inside a running event loop") as caught:
            Sandbox(boundary="process")
        assert "AsyncSandbox" in caught.value.hint
        with pytest.raises(SandboxStateError):
            made.start()
        with pytest.raises(SandboxStateError) as hinted:
            explain()
        assert hinted.value.hint == "await async_explain(...)"

    anyio.run(main, backend=backend)


def test_after_the_end_of_the_bridge_it_refuses() -> None:
    box = Sandbox(boundary="process")
    box.start()
    close_shared_bridge()
    with pytest.raises(SandboxStateError, match="have ended"):
        box.run("1")
    with Sandbox(boundary="process") as again:
        assert again.run("print(1)").ok


FORKED = """
import os
from jubako import Sandbox
from jubako.errors import SandboxStateError
with Sandbox(boundary="process") as box:
    pid = os.fork()
    if pid == 0:
        try:
            box.run("1")
        except SandboxStateError as error:
            print(error.hint, flush=True)
        with Sandbox(boundary="process") as own:
            print(own.run("print('child')").stdout, end="", flush=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    print(box.run("print('parent')").stdout, end="")
"""


def test_a_fork_is_refused_for_old_sandboxes_and_fine_for_new_ones() -> None:
    result = script(FORKED)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "make sandboxes after the fork\nchild\nparent\n"


OUTLIVED = """
import os, signal, sys, time
from jubako import Sandbox
with Sandbox(boundary="process") as box:
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.close(1), os.close(2)
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_child_does_not_keep_its_dead_parent_alive(state_home: Path) -> None:
    result = script(OUTLIVED)
    assert result.returncode == -signal.SIGKILL
    try:
        with Sandbox(boundary="process"):
            left = len(os.listdir(state_home / "run"))  # noqa: PTH208  # names are what counts
        assert left == 2  # our own lock and directory
    finally:
        os.kill(int(result.stdout), signal.SIGKILL)


def test_the_interpreter_ends_without_hanging_and_cleans_up(state_home: Path) -> None:
    result = script(
        "from jubako import Sandbox; box = Sandbox(boundary='process'); box.start(); print(box.run('print(1)').stdout)"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert os.listdir(state_home / "run") == []  # noqa: PTH208  # names are what counts
    failed = script("from jubako import Sandbox; box = Sandbox(boundary='process'); box.start(); raise SystemExit(3)")
    assert (failed.returncode, failed.stderr) == (3, "")
    assert os.listdir(state_home / "run") == []  # noqa: PTH208  # names are what counts


INTERRUPTED = """
import os, signal, threading, time
from jubako import Sandbox
def interrupt():
    while not box.files.exists("alive"):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
with Sandbox(boundary="process") as box:
    threading.Thread(target=interrupt).start()
    try:
        box.run("import time; open('alive', 'w').close(); time.sleep(60)")
    except KeyboardInterrupt:
        print("interrupted", box.files.exists("alive"), box.run("print(1)").ok)
"""


def test_an_interrupt_ends_the_call_and_the_sandbox_stays_usable() -> None:
    result = script(INTERRUPTED)
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted True True\n", "")


def test_questions_that_start_nothing() -> None:
    assert explain(boundary="process").boundary.driver == "bwrap"
    assert doctor().ok
