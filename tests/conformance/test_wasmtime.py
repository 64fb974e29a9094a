"""The conformance suite on WebAssembly: as root, and a part of it as an ordinary user."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import pytest

from jubako.testing.conformance import DriverConformance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jubako.boundary.contract import Driver

    RunAsUser = Callable[..., None]


class TestWasmtime(DriverConformance):
    """As whoever runs the tests."""

    known_deviations: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "exec.argv-bytes": "words of a WebAssembly component are Unicode text by its interface",
            "output.end-early": "a program can't close the host's end of its output: descriptors inside are WASI's own",
        }
    )

    @pytest.fixture
    def driver(self, wasmtime: Driver) -> Driver:
        return wasmtime


@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_part_as_an_ordinary_user(wasmtime: Driver, as_ordinary_user: RunAsUser) -> None:
    """Without cgroups: the first wall's limits and the jail's, with one host user for everything."""
    as_ordinary_user(f"{__file__}::TestWasmtime", "-k", "isolation or limits or plan or stop or output")
