"""Samples, their statistics, and fair rounds: what the benchmark scripts share."""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Case", "Contestant", "Row", "Samples", "interleave", "timed"]


@dataclass(slots=True)
class Samples:
    """Measured values of one kind, in the order in which they came."""

    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        self.values.append(value)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def median(self) -> float:
        """The middle value. NaN when there is none."""
        return statistics.median(self.values) if self.values else math.nan

    @property
    def minimum(self) -> float:
        """The least value: what the machine can do when nobody disturbs it. NaN when there is none."""
        return min(self.values, default=math.nan)

    def percentile(self, share: float) -> float:
        """Return the value that ``share`` (0 to 1) of the values do not exceed (nearest rank); NaN for none."""
        if not self.values:
            return math.nan
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way of doing a case's work. ``sample`` does it once and returns the measured value."""

    name: str
    sample: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: the contestants, who is compared with whom, and how near he should come.

    ``target`` is the ratio to ``baseline`` that ``subject`` promises not to exceed. ``rounds`` scales
    the number of rounds asked for: slow cases need fewer. ``amount`` is what one sample gets done, for
    rates such as MB/s.
    """

    key: str
    title: str
    contestants: tuple[Contestant, ...]
    unit: str = "ms"
    baseline: str | None = None
    subject: str | None = None
    target: float | None = None
    rounds: float = 1.0
    warmups: int = 1
    amount: float = 0.0
    amount_unit: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    case: str
    title: str
    name: str
    unit: str
    samples: Samples
    ratio: float | None = None
    target: float | None = None
    amount: float = 0.0
    amount_unit: str = ""
    error: str = ""

    @property
    def rate(self) -> float:
        """How much of the amount is done a second, at the median; NaN where nothing is counted."""
        return self.amount / self.samples.median * 1000 if self.amount and len(self.samples) else math.nan

    def as_json(self) -> dict[str, object]:
        """Return the row as JSON-able values."""
        known = len(self.samples) > 0
        return {
            "case": self.case,
            "title": self.title,
            "name": self.name,
            "unit": self.unit,
            "median": round(self.samples.median, 4) if known else None,
            "p95": round(self.samples.percentile(0.95), 4) if known else None,
            "min": round(self.samples.minimum, 4) if known else None,
            "n": len(self.samples),
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "target": self.target,
            "rate": None if math.isnan(self.rate) else round(self.rate, 2),
            "rate_unit": f"{self.amount_unit}/s" if self.amount else "",
            "error": self.error,
        }


def timed(work: Callable[[], object]) -> float:
    """Return how many milliseconds ``work`` took."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def interleave(case: Case, rounds: int, *, tick: Callable[[], None] = lambda: None) -> list[Row]:
    """Measure the case's contestants in turns, so that whatever else the machine does meets all alike.

    Each round starts with another contestant. One who fails is out, and his row says why; the others go on.
    """
    samples = {contestant.name: Samples() for contestant in case.contestants}
    errors: dict[str, str] = {}
    count = case.warmups + max(1, round(rounds * case.rounds))
    for number in range(count):
        for contestant in _rotated(case.contestants, number):
            if contestant.name in errors:
                continue
            try:
                value = contestant.sample()
            except Exception as error:  # noqa: BLE001  # reported in the table, and by the exit status
                errors[contestant.name] = _first_line(error)
                print(f"{case.key}: {contestant.name}: {error}", file=sys.stderr)
                continue
            if number >= case.warmups:
                samples[contestant.name].add(value)
        tick()
    return _rows(case, samples, errors)


def _rotated(contestants: Sequence[Contestant], number: int) -> Iterable[Contestant]:
    start = number % len(contestants)
    return [*contestants[start:], *contestants[:start]]


def _rows(case: Case, samples: dict[str, Samples], errors: dict[str, str]) -> list[Row]:
    base = samples[case.baseline].median if case.baseline else math.nan
    rows = []
    for contestant in case.contestants:
        own = samples[contestant.name]
        comparable = case.baseline not in {None, contestant.name} and len(own) and base > 0
        rows.append(
            Row(
                case=case.key,
                title=case.title,
                name=contestant.name,
                unit=case.unit,
                samples=own,
                ratio=own.median / base if comparable else None,
                target=case.target if contestant.name == case.subject else None,
                amount=case.amount,
                amount_unit=case.amount_unit,
                error=errors.get(contestant.name, ""),
            )
        )
    return rows


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
