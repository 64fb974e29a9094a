from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from jubako.boundary.contract import BoundaryKind
from jubako.boundary.registry import BUILT_IN, DriverEntry, DriverRegistry, installed_entries
from jubako.errors import ConfigurationError, MissingExtraError, UnknownDriverError


def nothing() -> tuple[DriverEntry, ...]:
    return ()


def forbidden() -> tuple[DriverEntry, ...]:
    pytest.fail("a built-in driver must be found without asking the installed distributions")


class Other:
    """A driver of some other distribution, as far as the registry looks at one."""

    name = "other"
    boundary = BoundaryKind.VM


class Misnamed:
    name = "somebody"
    boundary = BoundaryKind.WASM


HERE = __name__


def test_built_in_drivers_are_found_without_scanning_or_importing() -> None:
    sys.modules.pop("jubako.drivers.bwrap.driver", None)
    registry = DriverRegistry(scan=forbidden)
    assert {entry.name for entry in registry.resolve()} == {entry.name for entry in BUILT_IN}
    assert [entry.name for entry in registry.resolve("process")] == ["bwrap"]
    assert [entry.name for entry in registry.resolve("process", "bwrap")] == ["bwrap"]
    assert "jubako.drivers.bwrap.driver" not in sys.modules
    assert registry.loaded() == ()


def test_auto_takes_the_thickest_wall_first() -> None:
    table = [
        DriverEntry("thin", "x:Y", BoundaryKind.WASM),
        DriverEntry("thick", "x:Y", BoundaryKind.VM),
        DriverEntry("middle", "x:Y", BoundaryKind.GVISOR),
        DriverEntry("middle2", "x:Y", BoundaryKind.GVISOR),
    ]
    registry = DriverRegistry(table, forbidden)
    assert [entry.name for entry in registry.resolve("auto")] == ["thick", "middle", "middle2", "thin"]


def test_built_in_table_matches_the_entry_points() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert {entry.name: entry.target for entry in BUILT_IN} == project["entry-points"]["jubako.drivers"]
    assert {"bwrap"} <= {entry.name for entry in installed_entries()}
    assert {entry.name for entry in DriverRegistry().entries()} >= {entry.name for entry in BUILT_IN}


def test_installed_driver_is_found_by_name_and_by_boundary() -> None:
    registry = DriverRegistry(scan=lambda: (DriverEntry("other", f"{HERE}:Other"),))
    assert registry.resolve(driver="other")[0].target == f"{HERE}:Other"
    assert isinstance(registry.load("other"), Other)
    assert registry.load("other") is registry.load("other")
    assert [entry.name for entry in registry.resolve("vm")] == ["other"]


def test_two_drivers_of_one_name_are_an_error() -> None:
    registry = DriverRegistry(scan=lambda: (DriverEntry("bwrap", "evil.module:Driver"),))
    with pytest.raises(ConfigurationError, match="two drivers are named 'bwrap'") as caught:
        registry.entries()
    assert caught.value.details["targets"] == ["jubako.drivers.bwrap:BwrapDriver", "evil.module:Driver"]


def test_two_installed_drivers_of_one_name_are_an_error() -> None:
    registry = DriverRegistry((), lambda: (DriverEntry("x", "a:A"), DriverEntry("x", "b:B")))
    with pytest.raises(ConfigurationError, match="two drivers"):
        registry.load("x")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("auto", "bwarp"), "did you mean 'bwrap'?"),
        (("auto", "zzz"), f"known: {', '.join(sorted(entry.name for entry in BUILT_IN))}"),
        (("proces", None), "did you mean 'process'?"),
        (
            ("microvm", None),
            f"boundaries with a driver: {', '.join(sorted({str(entry.boundary) for entry in BUILT_IN}))}",
        ),
    ],
)
def test_unknown_names_say_what_is_known(arguments: tuple[str, str | None], hint: str) -> None:
    with pytest.raises(UnknownDriverError) as caught:
        DriverRegistry(scan=nothing).resolve(*arguments)
    assert caught.value.hint == hint
    assert caught.value.code == "unknown-driver"


def test_driver_and_boundary_must_agree() -> None:
    with pytest.raises(ConfigurationError, match="builds the boundary process, not 'vm'"):
        DriverRegistry(scan=nothing).resolve("vm", "bwrap")


def test_missing_dependency_names_the_extra() -> None:
    registry = DriverRegistry([DriverEntry("gone", "no_such_module_anywhere:D", BoundaryKind.VM, "vm")], nothing)
    with pytest.raises(MissingExtraError) as caught:
        registry.load("gone")
    assert caught.value.hint == "pip install 'jubako[vm]'"
    assert isinstance(caught.value, ImportError)


def test_registered_class_must_exist_and_carry_its_name() -> None:
    absent = DriverRegistry([DriverEntry("x", f"{HERE}:Nobody")], nothing)
    with pytest.raises(ConfigurationError, match="doesn't exist"):
        absent.load("x")
    misnamed = DriverRegistry([DriverEntry("x", f"{HERE}:Misnamed")], nothing)
    with pytest.raises(ConfigurationError, match="calls itself 'somebody'"):
        misnamed.load("x")
