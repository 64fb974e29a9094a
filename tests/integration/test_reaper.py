"""What a start does with the leftovers of dead owners, and with the living."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from jubako import AsyncSandbox, Runtime
from jubako.boundary.contract import BoundaryKind, InstanceRef
from jubako.boundary.registry import BUILT_IN, DriverEntry, DriverRegistry
from jubako.errors import LaunchError
from jubako.runtime.owner import OwnerLock, owners
from jubako.sinks import read_ledger
from jubako.store import SandboxRecord, StateStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.driver("bwrap")]

KEEPER = """
import anyio
from jubako.runtime import AsyncSandbox, Runtime
async def main():
    async with Runtime() as runtime, AsyncSandbox(boundary="process", runtime=runtime, name="kept") as box:
        print(runtime.owner, box.id, flush=True)
        await anyio.sleep(60)
anyio.run(main)
"""


def start_keeper() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", KEEPER], stdout=subprocess.PIPE, text=True)


def reaped(state: Path) -> list[object]:
    return [event["sandbox"] for event in read_ledger(state / "ledger.jsonl") if event["type"] == "sandbox.reaped"]


def record(owner: str, name: str) -> SandboxRecord:
    return SandboxRecord(
        id=name,
        owner=owner,
        driver="bwrap",
        handle=name,
        state="running",
        spec="{}",
        created=datetime.now(UTC),
        name=name,
    )


async def test_the_living_are_left_alone_and_the_dead_removed(state_home: Path) -> None:
    with start_keeper() as keeper:
        assert keeper.stdout is not None
        owner, sandbox = keeper.stdout.readline().split()
        async with Runtime():
            assert owner in owners(state_home / "run")
        store = StateStore.open(state_home / "state.db")
        assert [item.id for item in store.find()] == [sandbox]
        keeper.send_signal(signal.SIGKILL)
        keeper.wait()
        assert store.get(sandbox).name == "kept"
        async with Runtime() as runtime, AsyncSandbox(boundary="process", runtime=runtime, name="kept") as box:
            assert [item.id for item in store.find()] == [box.id]
            assert owners(state_home / "run") == {runtime.owner}
        store.close()
    assert reaped(state_home) == [sandbox]
    numbers = [event["seq"] for event in read_ledger(state_home / "ledger.jsonl") if event["sandbox"] == sandbox]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_records_without_a_lock_file_are_removed(state_home: Path) -> None:
    async with Runtime():
        pass
    store = StateStore.open(state_home / "state.db")
    await store.insert(record("gone", "orphan"))
    async with Runtime():
        assert store.find() == []
    store.close()
    assert reaped(state_home) == ["orphan"]


async def test_directories_without_a_record_are_removed(state_home: Path) -> None:
    async with Runtime():
        pass
    left = state_home / "run" / "gone" / "box"
    left.mkdir(parents=True)
    (left / "file").write_text("x")
    async with Runtime() as runtime:
        assert owners(state_home / "run") == {runtime.owner}
    assert reaped(state_home) == []


class Stubborn:
    """A driver whose leftover can't be removed until its ``mended`` is set."""

    name = "stubborn"
    boundary = BoundaryKind.VM
    mended = False
    reaped: list[InstanceRef]

    def __init__(self) -> None:
        self.reaped = []

    async def orphans(self, owner: str | None) -> Sequence[InstanceRef]:
        return [InstanceRef(self.name, "unrecorded", owner or "")] if owner == "gone" else []

    async def reap(self, ref: InstanceRef) -> None:
        if not type(self).mended:
            msg = "the machine is on fire"
            raise LaunchError(msg)
        self.reaped.append(ref)

    async def aclose(self) -> None:
        """Keep nothing."""


async def test_what_cannot_be_removed_is_kept_for_the_next_start(
    state_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registry = DriverRegistry([*BUILT_IN, DriverEntry("stubborn", f"{__name__}:Stubborn", BoundaryKind.VM)], tuple)
    async with Runtime():
        pass
    (state_home / "run" / "gone").mkdir()
    with caplog.at_level(logging.WARNING, "jubako.reaper"):
        async with Runtime(registry=registry):
            pass
    assert "the machine is on fire" in caplog.text
    assert owners(state_home / "run") == {"gone"}
    monkeypatch.setattr(Stubborn, "mended", True)
    async with Runtime(registry=registry):
        pass
    assert owners(state_home / "run") == frozenset()
    assert reaped(state_home) == ["unrecorded"]


async def test_a_start_with_nothing_to_do_asks_no_driver(state_home: Path) -> None:
    registry = DriverRegistry([DriverEntry("broken", "no.such.module:Driver", BoundaryKind.VM)], tuple)
    async with Runtime(registry=registry) as runtime:
        assert runtime.owner
        assert registry.loaded() == ()


async def test_two_starts_do_not_meet_over_one_leftover(state_home: Path) -> None:
    async with Runtime():
        pass
    store = StateStore.open(state_home / "state.db")
    await store.insert(record("gone", "orphan"))
    lock = OwnerLock.acquire(state_home / "run", "gone")  # another reaper is at work
    assert lock is not None
    async with Runtime():
        assert [item.id for item in store.find()] == ["orphan"]
    lock.abandon()
    async with Runtime():
        assert store.find() == []
    store.close()
    assert os.listdir(state_home / "run") == []  # noqa: PTH208  # names are what counts
