"""What all tests share: private directories, and drivers that are required or skipped with their reasons."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator


# A deadline would measure how busy the machine is.
settings.register_profile("jubako", deadline=None)
settings.load_profile("jubako")


@cache
def driver_problem(name: str) -> str:
    """Return why a driver doesn't work on this machine, or nothing."""
    from jubako.boundary.registry import DriverRegistry
    from jubako.errors import JubakoError

    try:
        report = anyio.run(DriverRegistry().load(name).probe)
    except JubakoError as error:
        return str(error)
    if report.available:
        return ""
    return "; ".join(f"{item.text} (remedy: {item.remedy})" for item in report.reasons) or "no reason given"


def required_drivers() -> frozenset[str]:
    """Return the drivers that this machine must have: for them a skip is a failure."""
    return frozenset(os.environ.get("JUBAKO_REQUIRE_DRIVERS", "").replace(",", " ").split())


def pytest_runtest_setup(item: pytest.Item) -> None:
    if next(item.iter_markers("root"), None) is not None and os.geteuid() != 0:
        pytest.skip("needs root")
    for marker in item.iter_markers("driver"):
        name = str(marker.args[0])
        problem = driver_problem(name)
        if problem and name in required_drivers():
            pytest.fail(f"driver {name} is required by JUBAKO_REQUIRE_DRIVERS: {problem}", pytrace=False)
        if problem:
            pytest.skip(f"driver {name}: {problem}")


@pytest.fixture(scope="session")
def shared_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests and all workers, kept between runs: what is in it can be made again, by its digest."""
    kept = getattr(request.config, "cache", None)
    try:
        place = None if kept is None else Path(kept.mkdir(f"jubako-{os.geteuid()}"))
    except OSError:
        place = None  # a checkout of somebody else's
    return place or tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test its own records and ledger, and end what blocking sandboxes share."""
    home = tmp_path / "state-home"
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("JUBAKO_DEBUG", raising=False)
    yield home / "jubako"
    bridge = sys.modules.get("jubako.sync.bridge")
    if bridge is not None:
        bridge.close_shared_bridge()


_WHOLE_MACHINE = ("tests/docs/", "tests/escape/", "tests/integration/test_reaper")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that look at the whole machine (leftovers, victims) on one worker, one after another."""
    for item in items:
        if any(part in f"{item.path}" for part in _WHOLE_MACHINE):
            item.add_marker(pytest.mark.xdist_group("machine"))
