"""Which drivers this machine must have: absent ones are skipped and listed, or fail if they were promised."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NoReturn

import anyio
import pytest

from jubako.boundary.registry import DriverRegistry
from jubako.errors import JubakoError

if TYPE_CHECKING:
    from jubako.boundary.contract import Driver

__all__ = ["SKIP_PREFIX", "VARIABLE", "require_driver", "required_drivers"]

VARIABLE: Final = "JUBAKO_REQUIRE_DRIVERS"
"""Names the drivers that this machine must have, separated by commas or spaces."""

SKIP_PREFIX: Final = "driver "
"""How the reason of every such skip begins, before name and colon; the summary counts by it."""


def required_drivers() -> frozenset[str]:
    """Return the drivers that ``JUBAKO_REQUIRE_DRIVERS`` names."""
    return frozenset(os.environ.get(VARIABLE, "").replace(",", " ").split())


def require_driver(name: str) -> Driver:
    """Return the driver of that name when it works here.

    Otherwise the calling test is skipped with the driver's reasons, or fails when
    ``JUBAKO_REQUIRE_DRIVERS`` names the driver. Call it outside of a running event loop, as fixtures do.
    """
    try:
        driver = DriverRegistry().load(name)
    except JubakoError as error:
        _absent(name, str(error))
    report = anyio.run(driver.probe)
    if not report.available:
        reasons = "; ".join(f"{item.text} ({item.remedy})" if item.remedy else item.text for item in report.reasons)
        _absent(name, reasons or "no reason given")
    return driver


def _absent(name: str, reasons: str) -> NoReturn:
    if name in required_drivers():
        pytest.fail(f"{VARIABLE} asks for driver {name}, which is absent: {reasons}", pytrace=False)
    pytest.skip(f"{SKIP_PREFIX}{name}: {reasons}")
