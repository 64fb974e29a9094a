"""``kill -9`` of jubako at random moments: after the next start nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.runtime import AsyncSandbox, Runtime
from jubako.runtime.owner import owners
from jubako.sinks import verify_ledger
from jubako.store import StateStore

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = int(os.environ.get("JUBAKO_KILL_ROUNDS", "100"))


class Nursery:
    """The process whose children are killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def nursery(temporary: Path, boundary: str, driver: str) -> Iterator[Nursery]:
    script = Path(__file__).with_name("reaper_child.py")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, str(script), boundary, driver],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield Nursery(process)
        finally:
            process.kill()


def mounts() -> list[str]:
    return sorted(Path("/proc/self/mounts").read_text().splitlines())


def cgroups_of(dead: set[str]) -> list[Path]:
    found = [Path(root) for root, _, _ in os.walk("/sys/fs/cgroup")]
    return [path for path in found if any(owner in path.name for owner in dead)]


def one_round(nursery: Nursery, run: Path, delay: float) -> frozenset[str]:
    pid = int(nursery.ask("fork"))
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(int(nursery.ask(f"wait {pid}"))) == -signal.SIGKILL
    return owners(run) if run.exists() else frozenset()


def left_running(nursery: Nursery) -> str:
    deadline = time.monotonic() + 10
    while (left := nursery.ask("children")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return "; ".join(f"{pid} {Path(f'/proc/{pid}/cmdline').read_text()[:200]}" for pid in left.split())


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("boundary", "driver", "pace"),
    [
        pytest.param("process", "bwrap", (ROUNDS, 0.25), marks=pytest.mark.driver("bwrap")),
        pytest.param("gvisor", "runsc", (ROUNDS // 4, 0.8), marks=pytest.mark.driver("runsc")),
    ],
)
def test_nothing_is_left_after_the_next_start(
    state_home: Path, tmp_path: Path, boundary: str, driver: str, pace: tuple[int, float]
) -> None:
    rounds, latest = pace
    temporary = tmp_path / "tmp"
    temporary.mkdir(mode=0o755)
    before = mounts()
    run = state_home / "run"
    dead: set[str] = set()
    with nursery(temporary, boundary, driver) as made:
        for _ in range(rounds):
            dead |= one_round(made, run, random.uniform(0, latest))
        anyio.run(start_once, boundary)
        assert left_running(made) == ""
    assert dead, "no process lived long enough to own anything"
    assert owners(run) == frozenset()
    store = StateStore.open(state_home / "state.db")
    assert store.find() == []
    store.close()
    assert cgroups_of(dead) == []
    assert mounts() == before
    assert list(temporary.iterdir()) == []
    report = verify_ledger(state_home / "ledger.jsonl")
    assert (report.ok, report.gaps) == (True, 0), report


async def start_once(boundary: str) -> None:
    async with Runtime() as runtime, AsyncSandbox(boundary=boundary, runtime=runtime) as box:
        assert (await box.run("print(6 * 7)")).stdout == "42\n"
