"""The conformance suite on gVisor: as root, and a part of it as an ordinary user."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import pytest

from jubako.testing.conformance import DriverConformance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jubako.boundary.contract import Driver

    RunAsUser = Callable[..., None]

_TERMINALS = "gVisor's terminals of 2022 don't turn keys and sizes into signals or an end of input"


class TestRunsc(DriverConformance):
    """As whoever runs the tests."""

    known_deviations: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "tty.echo": _TERMINALS,
            "tty.interrupt": _TERMINALS,
            "tty.is-terminal": "/dev/tty can't be opened in gVisor of 2022",
            "tty.resize": _TERMINALS,
        }
    )

    @pytest.fixture
    def driver(self, runsc: Driver) -> Driver:
        return runsc


@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_part_as_an_ordinary_user(runsc: Driver, as_ordinary_user: RunAsUser) -> None:
    """Rootless: without cgroups, and with one host user for everything."""
    as_ordinary_user(f"{__file__}::TestRunsc", "-k", "isolation or limits or plan or stop")
