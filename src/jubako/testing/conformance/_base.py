"""The pytest side: fixtures, known deviations, and what the summary is made from."""

from __future__ import annotations

import shutil
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

import pytest

from jubako.testing.conformance._bench import Setup, make_root
from jubako.testing.conformance._checks import Checks, check_of, checks_of
from jubako.testing.conformance._guest import Toolchain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jubako.boundary.contract import Driver, ProbeReport

__all__ = ["PytestChecks"]

_REPORTS: Final[pytest.StashKey[dict[int, tuple[Driver, ProbeReport]]]] = pytest.StashKey()
"""Each driver object's probe report, for all checks of a session."""


@pytest.mark.anyio
class PytestChecks(Checks):
    """Runs groups of checks under pytest. Subclasses override the ``driver`` fixture.

    Attributes:
        known_deviations: Check id and the reason why this driver doesn't keep that promise. Each
            becomes a strict expected failure: when the driver keeps it after all, the test fails.
        patience: How many times longer than usual a check waits before it gives up, for a boundary
            that is slow by nature. What is promised doesn't change: a limit of a second stays one.
    """

    known_deviations: ClassVar[Mapping[str, str]] = MappingProxyType({})
    patience: ClassVar[float] = 1.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        unknown = set(cls.known_deviations) - {made.id for made in checks_of(cls)}
        if unknown:
            msg = f"{cls.__name__}.known_deviations names no check of this suite: {', '.join(sorted(unknown))}"
            raise TypeError(msg)

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop that the checks run on: override it for the other one."""
        return "asyncio"

    @pytest.fixture
    def driver(self) -> Driver:
        """The driver under test: override this."""
        msg = f"{type(self).__name__} must override the driver fixture"
        raise NotImplementedError(msg)

    @pytest.fixture
    def toolchain(self) -> Toolchain:
        """The programs inside that the checks rely on."""
        return Toolchain()

    @pytest.fixture
    def setup(self, driver: Driver, toolchain: Toolchain, request: pytest.FixtureRequest) -> Iterator[Setup]:
        """What a check is made from: driver, toolchain and a directory."""
        root = make_root()
        try:
            reports = request.config.stash.setdefault(_REPORTS, {})
            yield Setup(driver, root, toolchain, reports, patience=self.patience)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    @pytest.fixture(autouse=True)
    def _conformance(self, request: pytest.FixtureRequest, driver: Driver) -> None:
        """Apply known deviations, and note for the summary what was checked on which driver."""
        made = check_of(request.function)
        if made is None:
            return
        request.node.user_properties += [("jubako_driver", driver.name), ("jubako_check", made.id)]
        reason = self.known_deviations.get(made.id)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
