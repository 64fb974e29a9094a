"""The driver that the conformance tests run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jubako.testing.drivers import require_driver

if TYPE_CHECKING:
    from jubako.boundary.contract import Driver


@pytest.fixture(scope="session")
def bwrap() -> Driver:
    """The process boundary's driver, with its probe made once."""
    return require_driver("bwrap")


@pytest.fixture(scope="session")
def runsc() -> Driver:
    """The gVisor boundary's driver, with its probe made once."""
    return require_driver("runsc")
