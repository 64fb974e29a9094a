"""The main job: what `make run` starts does what it says, and says so when it can't."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"

pytestmark = pytest.mark.driver("bwrap")


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "160"}


def script(name: str, *arguments: str, env: dict[str, str], seconds: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=env,
    )


def only(text: str) -> Any:
    """The figures of the one boundary that was run."""
    (figures,) = json.loads(text)["boundaries"]
    return figures


def problem(
    task: str, solution: str, test: str = "def check(candidate):\n    assert candidate() == 1\n"
) -> dict[str, str]:
    return {
        "task_id": task,
        "prompt": "def answer():\n",
        "canonical_solution": solution,
        "test": "def check(candidate):\n    assert candidate() == 1\n",
        "entry_point": "answer",
    }


def write_problems(place: Path, *problems: dict[str, str]) -> str:
    place.write_text("".join(json.dumps(item) + "\n" for item in problems), encoding="utf-8")
    return str(place)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "boundary",
    [
        pytest.param("wasm", marks=pytest.mark.driver("wasmtime")),
        pytest.param("process", marks=pytest.mark.driver("bwrap")),
        pytest.param("gvisor", marks=pytest.mark.driver("runsc")),
    ],
)
def test_all_164_solutions_pass_each_in_its_own_sandbox(state: dict[str, str], tmp_path: Path, boundary: str) -> None:
    done = script("human_eval.py", "--boundary", boundary, "--json", env=state, seconds=380)
    assert done.returncode == 0, done.stderr
    figures = only(done.stdout)
    assert (figures["problems"], figures["passed"], figures["failed"]) == (164, 164, 0)
    assert figures["failures"] == {}
    assert 0 < figures["p50_ms"] <= figures["p95_ms"]
    ledger = (tmp_path / "state" / "jubako" / "ledger.jsonl").read_text(encoding="utf-8")
    made = set(re.findall(r'"sandbox":"([^"]+)"', ledger.replace('": "', '":"')))
    assert len(made) == 164


def test_progress_and_table_are_plain_away_from_a_terminal(state: dict[str, str]) -> None:
    done = script("human_eval.py", "--boundary", "process", "--limit", "3", env=state)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "HumanEval, process: 3/3 3 passed, 0 failed"
    header, _, row = done.stdout.strip().splitlines()[1:]
    assert header.split()[:4] == ["boundary", "problems", "passed", "failed"]
    assert row.split()[:4] == ["process", "3", "3", "0"]
    assert "\x1b" not in done.stdout + done.stderr


def test_every_boundary_that_works_here_has_a_row(state: dict[str, str]) -> None:
    done = script("human_eval.py", "--limit", "2", env=state)
    assert done.returncode == 0, done.stderr
    found = json.loads(subprocess.check_output([sys.executable, "-m", "jubako", "doctor", "--json"], env=state))
    usable = {item["boundary"] for item in found["drivers"] if item["usable"]}
    rows = {line.split()[0]: line.split()[1:4] for line in done.stdout.strip().splitlines()[3:] if line.split()}
    assert {kind for kind, cells in rows.items() if cells == ["2", "2", "0"]} == usable
    lacking = {item["boundary"] for item in found["drivers"]} - usable
    assert all(f"{kind}: not on this machine" in done.stdout for kind in lacking)


def test_every_way_of_not_passing_is_named_with_its_cause(state: dict[str, str], tmp_path: Path) -> None:
    problems = write_problems(
        tmp_path / "problems.jsonl",
        problem("good", "    return 1\n"),
        problem("wrong", "    return 2\n"),
        problem("early-exit", "    raise SystemExit(0)\n"),
        problem("raises", "    raise ValueError('no \\x1b[31m idea')\n"),
        problem("endless", "    while True: pass\n"),
        problem("killed", "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n"),
    )
    done = script(
        "human_eval.py", "--boundary", "process", "--problems", problems, "--timeout", "1.5", "--json", env=state
    )
    assert done.returncode == 1
    figures = only(done.stdout)
    assert (figures["passed"], figures["failed"]) == (1, 5)
    causes = figures["failures"]
    assert causes["wrong"] == "AssertionError"
    assert causes["early-exit"] == "ended before its tests did"
    assert causes["raises"].startswith("ValueError: no ")
    assert causes["endless"].startswith("timed out after ")
    assert causes["killed"] == "exit status 137"
    assert "5 of 6 failed: wrong (process), early-exit (process), raises (process)" in done.stderr
    shown = script("human_eval.py", "--boundary", "process", "--problems", problems, "--timeout", "1.5", env=state)
    assert shown.returncode == 1
    assert "AssertionError" in shown.stdout
    assert "\x1b" not in shown.stdout + shown.stderr


def test_a_sandbox_that_can_not_be_made_is_a_failure_not_a_pass(state: dict[str, str]) -> None:
    done = script("human_eval.py", "--limit", "2", "--boundary", "microvm", "--json", env=state)
    assert done.returncode == 1
    figures = only(done.stdout)
    assert figures["failed"] == 2
    assert all(re.match(r"[a-z-]+: ", cause) for cause in figures["failures"].values())


def test_every_hostile_attempt_is_contained(state: dict[str, str]) -> None:
    done = script("hostile.py", "--json", env=state)
    assert done.returncode == 0, done.stderr + done.stdout
    findings = json.loads(done.stdout)
    assert len(findings) >= 45
    assert {item["verdict"] for item in findings} == {"contained"}
    met = {item["attempt"]: item["met"] for item in findings}
    assert met["read a secret file of the host"] == "ENOENT"
    assert met["plant a program in /usr/bin"] == "EROFS"
    assert met["connect to a host port"] == "ECONNREFUSED"
    assert met["fork bomb"] == "EAGAIN"
    assert met["fill the workspace"] == "ENOSPC"
    assert met["open thousands of files"] == "EMFILE"
    assert met["io_uring"] in {"EPERM", "ENOSYS"}
    assert met["memory bomb"] in {"SIGKILL", "MemoryError"}


def test_the_hostile_program_shows_a_table(state: dict[str, str]) -> None:
    done = script("hostile.py", env=state)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-1] == f"{len(lines) - 5} of {len(lines) - 5} attempts contained, 0 escaped"
    assert "ESCAPED" not in done.stdout


def test_the_hostile_program_does_nothing_outside(tmp_path: Path) -> None:
    bait = tmp_path / "bait.json"
    bait.write_text(json.dumps({"sandbox": "elsewhere"}), encoding="utf-8")
    for arguments in ([], [str(bait)]):
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / "attacker.py"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "attacker: not inside a jubako sandbox; nothing was tried\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bait.json"]


def test_an_attempt_that_succeeds_turns_the_verdict(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import hostile\n"
        "line = {'name': 'n', 'control': 'fs.ro-root', 'stopped': 'EPERM', 'gained': 'a \\x1b[1m lot'}\n"
        "for item in hostile.read_report((json.dumps(line) + '\\n').encode()):\n"
        "    print(item.verdict, item.gained)\n"
    )
    argv = [sys.executable, "-c", code, str(BENCHMARKS)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path)
    assert done.stdout == "ESCAPED a  [1m lot\n", done.stderr


def test_benchmarks_measure_without_a_wrong_result(state: dict[str, str]) -> None:
    done = script("run.py", "--rounds", "1", "--only", "fresh,exec,import,ledger", "--json", env=state)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["case"] for row in rows} == {"fresh", "exec", "import", "ledger"}
    assert all(row["median"] > 0 and not row["error"] for row in rows)
    promised = {row["name"]: (row["ratio"], row["target"]) for row in rows if row["target"]}
    assert promised["jubako: first result"][1] == 2.0
    assert promised["jubako: run()"][1] == 1.3
    assert all(ratio is not None for ratio, _ in promised.values())


@pytest.mark.timeout(400)  # the first use of WebAssembly on a machine builds its Python
@pytest.mark.driver("runsc")
@pytest.mark.driver("wasmtime")
def test_benchmarks_measure_every_boundary_beside_its_raw_tool(state: dict[str, str]) -> None:
    done = script("run.py", "--rounds", "1", "--only", "cold,live,cpu", "--json", env=state, seconds=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(row["median"] > 0 and not row["error"] for row in rows)
    raw = {"process": "raw bwrap", "gvisor": "raw runsc run", "wasm": "raw wasmtime-py"}
    cold = {(row["title"].rpartition(" ")[2], row["name"]) for row in rows if row["case"] == "cold"}
    assert set(raw.items()) <= cold
    assert {(kind, "jubako: first result") for kind in raw} <= cold
    live = {row["title"].rpartition(" ")[2] for row in rows if row["case"] == "live" and row["ratio"] is not None}
    assert live == set(raw)
    slowed = {row["name"] for row in rows if row["case"] == "cpu"}
    assert slowed == {*raw.values(), *(f"jubako: {kind}" for kind in raw), "host python3"}


def test_benchmarks_refuse_unknown_cases(state: dict[str, str]) -> None:
    done = script("run.py", "--only", "fresh,fast", env=state)
    assert done.returncode == 2
    assert "no case is named fast" in done.stderr
