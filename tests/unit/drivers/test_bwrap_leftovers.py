"""What a maker killed at the worst moment leaves behind is found by name and ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jubako.boundary.contract import InstanceRef
from jubako.drivers.bwrap import BwrapDriver
from jubako.jail.leftovers import MARKER, leftovers

pytestmark = [pytest.mark.anyio, pytest.mark.driver("bwrap")]

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_process_without_a_cgroup_is_reaped() -> None:
    # Stands for bubblewrap's child that sleeps for good because its parent was killed too early.
    with subprocess.Popen([*SLEEP, MARKER, "bwrap.deadowner-box1"]) as left:  # noqa: ASYNC220  # takes a millisecond
        try:
            driver = BwrapDriver()
            ref = InstanceRef("bwrap", "box1", "deadowner")
            assert ref in await driver.orphans("deadowner")
            assert ref in await driver.orphans(None)
            assert not await driver.orphans("otherowner")
            await driver.reap(ref)
            assert left.wait(5) == -9
            await driver.reap(ref)
            assert not await driver.orphans("deadowner")
        finally:
            left.kill()


def test_only_the_exact_position_counts() -> None:
    with subprocess.Popen([*SLEEP, MARKER, "bwrap.deadowner-box2", "x"]) as other:
        try:
            assert "bwrap.deadowner-box2" not in leftovers()
            assert "x" not in leftovers()
        finally:
            other.kill()
