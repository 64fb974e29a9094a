"""Each broken driver turns exactly its own checks red: the suite can fail, and only where it should.

A defect can only show in checks that reach it. Which ones those are is recorded in a run through the
delegate that changes nothing (``baseline``), whose checks must all be green. With
``JUBAKO_BROKEN_FULL=1`` every check runs for every broken driver.
"""

from __future__ import annotations

import gc
import os
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from jubako.testing.broken import BROKEN_DRIVERS, BrokenDriver
from jubako.testing.conformance import AllChecks, Check, checks_of
from jubako.testing.runner import CheckResult, Outcome, run_checks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from jubako.boundary.contract import Driver

pytestmark = [
    pytest.mark.timeout(300),
    # Broken drivers leave streams and processes unclosed on purpose; whichever test runs next would be blamed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let what a broken driver left be found here, not in a test of another module."""
    yield
    gc.collect()


_FULL = os.environ.get("JUBAKO_BROKEN_FULL") == "1"


class Baseline:
    """The run in which nothing is broken: outcomes, and by check what passed through the delegate."""

    def __init__(self, outcomes: dict[str, Outcome], traces: dict[str, set[str]]) -> None:
        self.outcomes = outcomes
        self.traces = traces

    def with_result(self, result: CheckResult) -> set[str]:
        return {name for name, outcome in self.outcomes.items() if outcome.result is result}

    def reached_by(self, broken: type[BrokenDriver]) -> set[str]:
        if _FULL or not broken.reach:
            return set(self.outcomes)
        return {name for name, trace in self.traces.items() if trace & broken.reach}


def _run(
    inner: Driver, kind: type[BrokenDriver], only: Collection[str] | None, concurrency: int = 4
) -> tuple[dict[str, Outcome], dict[str, set[str]]]:
    traces: dict[str, set[str]] = {}

    def make(made: Check) -> Driver:
        driver = kind(inner)
        driver.trace.update(f"asks.{name}" for name in made.parameters)
        if made.needs:
            driver.trace.add("asks.report")
        traces[made.id] = driver.trace
        return cast("Driver", driver)  # its name and boundary are the inner driver's, found at run time

    outcomes = anyio.run(partial(run_checks, make, only=only, concurrency=concurrency))
    return outcomes, traces


def _red(outcomes: dict[str, Outcome]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome.result is CheckResult.FAILED}


@pytest.fixture(scope="module")
def baseline(bwrap: Driver) -> Baseline:
    return Baseline(*_run(bwrap, BrokenDriver, None))


def test_a_delegate_without_defect_is_green(baseline: Baseline) -> None:
    failed = {name: baseline.outcomes[name].error for name in _red(baseline.outcomes)}
    assert not failed
    assert len(baseline.with_result(CheckResult.PASSED)) >= 60


@pytest.mark.parametrize("broken", BROKEN_DRIVERS, ids=lambda item: item.__name__)
def test_a_broken_driver_fails_its_own_checks_and_no_others(
    broken: type[BrokenDriver], bwrap: Driver, baseline: Baseline
) -> None:
    wanted = broken.breaks - baseline.with_result(CheckResult.SKIPPED)
    if not wanted:
        pytest.skip("this machine lacks the feature that is broken here")
    outcomes, _ = _run(bwrap, broken, baseline.reached_by(broken) | wanted)
    red = _red(outcomes)
    if red - wanted:
        # A busy machine can make a check run out of time: what fails has to fail alone as well.
        again, _ = _run(bwrap, broken, red - wanted, concurrency=1)
        red = (red & wanted) | _red(again)
    assert red == wanted, {name: outcomes[name].error for name in red ^ wanted}


def test_each_group_of_checks_has_a_driver_that_fails_it() -> None:
    groups = {made.id.partition(".")[0] for made in checks_of(AllChecks)}
    broken = {name.partition(".")[0] for kind in BROKEN_DRIVERS for name in kind.breaks}
    assert groups - broken == set()
