"""The pytest plugin: what ran against which driver, and which drivers were absent.

Loaded by itself where jubako is installed; it says nothing unless drivers were tested. The option
``--jubako-report`` prints one line per driver, its declared gaps and its known deviations.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pytest_addoption", "pytest_configure", "pytest_terminal_summary"]

_ABSENT: Final = re.compile(r"(?:Skipped: )?driver ([\w.-]+: .*)", re.DOTALL)
"""As ``jubako.testing.drivers`` words its skips."""

_GAP: Final = re.compile(
    r"(?:Skipped: )?driver (?P<driver>[\w.-]+) declares no (?P<features>[\w-]+(?: and no [\w-]+)*)"
)
"""As ``jubako.testing.conformance`` words the skip of a check that needs a feature."""

_RESULTS: Final = ("passed", "failed", "error", "xfailed", "xpassed", "skipped")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--jubako-report``."""
    group = parser.getgroup("jubako")
    group.addoption(
        "--jubako-report",
        action="store_true",
        help="Summarise conformance checks by driver, with declared gaps, known deviations and absent drivers.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Announce the markers and check the names in ``JUBAKO_REQUIRE_DRIVERS``.

    Raises ``pytest.UsageError`` for a driver that isn't installed: a misspelt name would require nothing.
    """
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    # Comparisons in the suite explain themselves like those in test files.
    if "jubako.testing.conformance" not in sys.modules:
        pytest.register_assert_rewrite("jubako.testing.conformance")
    _check_required()


def _check_required() -> None:
    import os

    if not os.environ.get("JUBAKO_REQUIRE_DRIVERS", "").strip():
        return  # nothing to import
    from jubako.boundary.registry import DriverRegistry
    from jubako.errors import JubakoError
    from jubako.testing.drivers import VARIABLE, required_drivers

    registry = DriverRegistry()
    for name in sorted(required_drivers()):
        try:
            registry.resolve(driver=name)
        except JubakoError as error:
            msg = f"{VARIABLE}: {error}"
            raise pytest.UsageError(msg) from error


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print absent drivers with their reasons, and with ``--jubako-report`` the counts by driver."""
    stats: dict[str, list[object]] = terminalreporter.stats
    absent = Counter(_absences(stats))
    full = bool(config.getoption("--jubako-report"))
    if not absent and not full:
        return
    terminalreporter.section("jubako drivers")
    if full:
        for line in _lines(stats):
            terminalreporter.write_line(line)
    for reason, count in sorted(absent.items()):
        terminalreporter.write_line(f"absent: {reason} [{count} skipped]")


def _absences(stats: dict[str, list[object]]) -> Iterator[str]:
    for reason in _skips(stats):
        found = _ABSENT.match(reason)
        if found:
            yield found[1]


def _gaps(stats: dict[str, list[object]]) -> dict[str, Counter[str]]:
    """Count, by driver and missing features, the checks that have no meaning without them."""
    counts: dict[str, Counter[str]] = {}
    for reason in _skips(stats):
        found = _GAP.match(reason)
        if found:
            counts.setdefault(found["driver"], Counter())[found["features"].replace(" and no ", ", ")] += 1
    return counts


def _skips(stats: dict[str, list[object]]) -> Iterator[str]:
    for report in stats.get("skipped", []):
        match getattr(report, "longrepr", None):
            case (_, _, str(text)):  # where, which line, why
                yield text
            case _:
                continue


def _lines(stats: dict[str, list[object]]) -> Iterator[str]:
    counts: dict[str, Counter[str]] = {}
    deviations: dict[str, dict[str, str]] = {}
    for result in _RESULTS:
        for report in stats.get(result, []):
            properties: dict[str, object] = dict(getattr(report, "user_properties", ()))
            driver, made = properties.get("jubako_driver"), properties.get("jubako_check")
            if driver is None or made is None:
                continue
            counts.setdefault(str(driver), Counter())[result] += 1
            if result == "xfailed":
                deviations.setdefault(str(driver), {})[str(made)] = str(getattr(report, "wasxfail", ""))
    gaps = _gaps(stats)
    for driver, counted in sorted(counts.items()):
        yield f"{driver}: " + ", ".join(f"{counted[result]} {result}" for result in _RESULTS if counted[result])
        for features, number in sorted(gaps.get(driver, Counter[str]()).items()):
            yield f"  declared gap {features}: {number} checks have no meaning without"
        for made, reason in sorted(deviations.get(driver, {}).items()):
            yield f"  known deviation {made}: {reason}"
