"""The conformance suite on the process boundary: both event loops, and as an ordinary user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jubako.testing.conformance import DriverConformance

if TYPE_CHECKING:
    from collections.abc import Callable

    from jubako.boundary.contract import Driver

    RunAsUser = Callable[..., None]


class TestBwrap(DriverConformance):
    """As whoever runs the tests."""

    @pytest.fixture
    def driver(self, bwrap: Driver) -> Driver:
        return bwrap


class TestBwrapOnTrio(DriverConformance):
    """The same on the other event loop."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @pytest.fixture
    def driver(self, bwrap: Driver) -> Driver:
        return bwrap


@pytest.mark.root
@pytest.mark.timeout(300)
def test_the_suite_as_an_ordinary_user(bwrap: Driver, as_ordinary_user: RunAsUser) -> None:
    """Without root there may be no cgroups: what the plan calls partial is checked as partial."""
    as_ordinary_user(f"{__file__}::TestBwrap")
