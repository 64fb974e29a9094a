"""Runs checks without pytest's collection: many at once in one event loop, outcomes as values."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.testing.conformance import AllChecks, Check, Setup, Toolchain, checks_of, make_root, run_check

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from jubako.boundary.contract import Driver, ProbeReport

__all__ = ["CheckResult", "Outcome", "run_checks"]


class CheckResult(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check that was run: its result, the error or reason behind it, and how long it took."""

    check: str
    result: CheckResult
    error: BaseException | None
    seconds: float


async def run_checks(
    make_driver: Callable[[Check], Driver],
    *,
    only: Collection[str] | None = None,
    slow: bool = False,
    concurrency: int = 4,
    suite: type[AllChecks] = AllChecks,
    toolchain: Toolchain | None = None,
    patience: float = 1.0,
) -> dict[str, Outcome]:
    """Run the checks of a suite and return their outcomes by check id.

    ``make_driver`` is called for each check and may return one driver again and again. Checks that
    need the whole process for themselves run one by one at the end. ``slow`` ones are left out unless
    asked for, by the flag or by name in ``only``. ``patience`` is as in ``PytestChecks``.
    """
    outcomes: dict[str, Outcome] = {}
    limiter = anyio.CapacityLimiter(concurrency)
    reports: dict[int, tuple[Driver, ProbeReport]] = {}
    chosen = [
        made for made in checks_of(suite) if (only is None or made.id in only) and (slow or only or not made.slow)
    ]
    root = make_root()

    async def one(made: Check) -> None:
        async with limiter:
            directory = root / made.name
            directory.mkdir(mode=0o755)
            setup = Setup(make_driver(made), directory, toolchain or Toolchain(), reports, patience=patience)
            outcomes[made.id] = await _outcome(made, suite(), setup)

    try:
        async with anyio.create_task_group() as tasks:
            for made in chosen:
                if not made.exclusive:
                    tasks.start_soon(one, made)
        for made in chosen:
            if made.exclusive:
                await one(made)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(root)
    return outcomes


async def _outcome(made: Check, suite: AllChecks, setup: Setup) -> Outcome:
    begun = time.monotonic()
    result = CheckResult.PASSED
    caught: BaseException | None = None
    try:
        await run_check(made, suite, setup)
    except pytest.skip.Exception as error:
        result, caught = CheckResult.SKIPPED, error
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # whatever it is, it is the outcome
        result, caught = CheckResult.FAILED, error
    return Outcome(made.id, result, caught, time.monotonic() - begun)
