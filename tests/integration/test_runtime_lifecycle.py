"""States, time to live, deaths, refusals and cleaning up, over the real process boundary."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from jubako import AsyncSandbox, Runtime, SandboxState, async_doctor, async_explain
from jubako.boundary.contract import BoundaryKind, ControlResult, Enforcement, Plan, ProbeReport, Reason
from jubako.boundary.registry import DriverEntry, DriverRegistry
from jubako.drivers.bwrap import BwrapDriver
from jubako.errors import (
    DriverUnavailableError,
    InstanceLostError,
    InvalidRequestError,
    JubakoError,
    LaunchError,
    LedgerError,
    NameTakenError,
    PolicyNotEnforceableError,
    SandboxExpiredError,
    SandboxStateError,
    StoreError,
)
from jubako.policy import CONTROLS
from jubako.runtime.owner import owners
from jubako.sinks import read_ledger, verify_ledger
from jubako.store import SandboxRecord, StateStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jubako.boundary.contract import DriverContext, Instance
    from jubako.events import Event
    from jubako.policy import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.driver("bwrap")]


class Collector:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)

    def of(self, sandbox: str | None) -> list[str]:
        return [event.type for event in self.events if event.sandbox == sandbox]

    def data(self, kind: str) -> list[object]:
        return [event.data for event in self.events if event.type == kind]


@pytest.fixture
def sink() -> Collector:
    return Collector()


@pytest.fixture
async def runtime(sink: Collector) -> AsyncIterator[Runtime]:
    async with Runtime(sinks=[sink]) as made:
        yield made


def assert_nothing_left(state: Path) -> None:
    """No record, lock, directory; and the ledger is intact."""
    store = StateStore.open(state / "state.db")
    assert store.find() == []
    store.close()
    assert owners(state / "run") == frozenset()
    assert verify_ledger(state / "ledger.jsonl").ok
    assert verify_ledger(state / "ledger.jsonl").gaps == 0


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; fail when that takes long."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # conditions of other parties have no event to wait for
            await anyio.sleep(0.005)


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


async def test_record_and_directory_exist_while_it_runs_and_not_after(state_home: Path) -> None:
    before = children()
    async with Runtime() as runtime:
        async with AsyncSandbox(
            boundary="process", runtime=runtime, name="worker", labels={"team": "a"}, ttl=60
        ) as box:
            store = StateStore.open(state_home / "state.db")
            record = store.get(box.id)
            assert (record.state, record.name, record.labels) == ("running", "worker", {"team": "a"})
            assert (record.owner, record.driver, record.card) == (runtime.owner, "bwrap", box.card().digest)
            assert record.expires is not None
            assert (record.expires - record.created).total_seconds() == pytest.approx(60)
            assert (state_home / "run" / runtime.owner / box.id).stat().st_mode & 0o777 == 0o700
            assert [item.id for item in runtime.sandboxes()] == [box.id]
            with pytest.raises(NameTakenError):
                await AsyncSandbox(boundary="process", runtime=runtime, name="worker").start()
            store.close()
        assert runtime.sandboxes() == ()
        async with AsyncSandbox(boundary="process", runtime=runtime, name="worker") as again:
            assert again.state is SandboxState.RUNNING
    assert children() == before
    assert_nothing_left(state_home)


async def test_states_and_what_each_allows(runtime: Runtime) -> None:
    box = AsyncSandbox(boundary="process", runtime=runtime)
    assert box.state == "pending"
    await box.start()
    assert box.state == "running"
    await box.stop(grace=0.2)
    assert box.state == "stopped"
    await box.stop()
    for call in (box.run("1"), box.exec(["true"]), box.usage(), box.files.read("x"), box.pause(), box.connect(80)):
        with pytest.raises(SandboxStateError, match="this one is stopped"):
            await call
    await box.destroy()
    await box.destroy()
    assert box.state == "destroyed"
    with pytest.raises(SandboxStateError, match="this one is destroyed"):
        await box.run("1")


async def test_pause_freezes_and_resume_goes_on(runtime: Runtime) -> None:
    async with AsyncSandbox(boundary="process", runtime=runtime) as box:
        if "pause" not in box.card().boundary.features:
            with pytest.raises(InvalidRequestError):
                await box.pause()
            pytest.skip("no freezer on this machine")
        process = await box.exec(["sh", "-c", "while echo x; do sleep 0.02; done"])
        await process.stdout.readline()
        await box.pause()
        await box.pause()
        assert box.state == "paused"
        with pytest.raises(SandboxStateError, match="this one is paused"):
            await box.run("1")
        while True:  # what was said before the freeze is still to be read
            with anyio.move_on_after(0.3) as scope:
                await process.stdout.receive()
            if scope.cancelled_caught:
                break
        await box.resume()
        await box.resume()
        with anyio.fail_after(10):
            assert await process.stdout.readline() == "x\n"
        await box.pause()
        await box.stop(grace=1)
        assert box.state == "stopped"


async def test_time_to_live_destroys_and_later_calls_say_so(runtime: Runtime, sink: Collector) -> None:
    box = AsyncSandbox(boundary="process", runtime=runtime, ttl=0.6)
    await box.start()
    with pytest.raises(SandboxExpiredError) as caught, anyio.fail_after(20):
        await box.run("import time; time.sleep(60)")
    assert isinstance(caught.value.__cause__, JubakoError)
    await until(lambda: box.state is SandboxState.DESTROYED)
    with pytest.raises(SandboxExpiredError) as late:
        await box.run("1")
    assert late.value.code == "sandbox-expired"
    assert "limit.reached" in sink.of(box.id)
    assert any(getattr(data, "control", "") == "time.sandbox" for data in sink.data("limit.reached"))
    assert runtime.sandboxes() == ()
    await box.destroy()


async def test_death_of_the_sandbox_is_seen_with_its_reason(runtime: Runtime, sink: Collector) -> None:
    box = AsyncSandbox(boundary="process", runtime=runtime)
    await box.start()
    held = await box.exec(["sleep", "60"])
    # Kill pid 1 of the sandbox from outside, as an administrator or the kernel might.
    inside = int((await box.run("import os; print(os.readlink('/proc/self/ns/pid')[5:-1])")).stdout)
    victims = [pid for pid in all_processes() if namespace(pid) == inside]
    os.kill(min(victims), signal.SIGKILL)
    with pytest.raises(InstanceLostError), anyio.fail_after(10):
        await held.wait()
    await until(lambda: box.state is not SandboxState.RUNNING)
    assert box.state == "failed"
    with pytest.raises(InstanceLostError) as caught:
        await box.run("1")
    assert caught.value.details["state"] == "failed"
    await box.destroy()
    assert box.state == "destroyed"
    assert sink.of(box.id)[-1] == "sandbox.state_changed"


def all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def namespace(pid: int) -> int:
    with suppress(OSError):
        return int(str(Path(f"/proc/{pid}/ns/pid").readlink())[5:-1])
    return 0


async def test_events_tell_the_whole_story_in_order(runtime: Runtime, sink: Collector, state_home: Path) -> None:
    policy = {
        "relaxations": [
            {"kind": "accept-weaker", "control": "resource.cpu", "accept": "optional", "reason": "a test of events"}
        ]
    }
    async with AsyncSandbox(boundary="process", runtime=runtime, policy=policy) as box:
        await box.files.write("a", b"12345")
        await box.files.read("a")
        await box.run("import sys; sys.exit(3)")
        await until(lambda: "exec.exited" in sink.of(box.id))
    assert sink.of(box.id) == [
        "policy.relaxed",
        "sandbox.created",
        "sandbox.state_changed",
        "file.transferred",
        "file.transferred",
        "exec.started",
        "exec.exited",
        "sandbox.state_changed",
    ]
    assert [event.seq for event in sink.events if event.sandbox == box.id] == list(range(1, 9))
    exited = sink.data("exec.exited")[0]
    assert getattr(exited, "code", None) == 3
    started = sink.data("exec.started")[0]
    assert getattr(started, "argv", ())[:2] == ("python3", "-c")
    written = [event["type"] for event in read_ledger(state_home / "ledger.jsonl") if event["sandbox"] == box.id]
    assert written == sink.of(box.id)


async def test_refusal_starts_nothing_and_is_recorded(runtime: Runtime, sink: Collector, state_home: Path) -> None:
    policy = {"secrets": {"TOKEN": {"source": "env:TOKEN", "hosts": ["example.com"]}}}
    with pytest.raises(PolicyNotEnforceableError) as caught:
        await AsyncSandbox(boundary="process", runtime=runtime, policy=policy).start()
    listed = caught.value.details["controls"]
    assert isinstance(listed, list)
    assert [item["control"] for item in listed] == ["secret.broker"]
    assert sink.of(None) == ["sandbox.refused"]
    refused = sink.data("sandbox.refused")[0]
    assert getattr(refused, "controls", ()) == ("secret.broker",)
    assert runtime.sandboxes() == ()
    assert list((state_home / "run" / runtime.owner).iterdir()) == []


async def test_fifty_at_once(state_home: Path, sink: Collector) -> None:
    results: list[str] = []

    async def one(runtime: Runtime, number: int) -> None:
        async with AsyncSandbox(boundary="process", runtime=runtime) as box:
            results.append((await box.run(f"print({number} * 2)")).stdout)

    async with Runtime(sinks=[sink]) as runtime:
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(one, runtime, number)
        assert runtime.sandboxes() == ()
    assert sorted(int(text) for text in results) == list(range(0, 100, 2))
    assert_nothing_left(state_home)


async def test_leaving_the_runtime_destroys_what_is_left(state_home: Path) -> None:
    before = children()
    async with Runtime() as runtime:
        boxes = [AsyncSandbox(boundary="process", runtime=runtime) for _ in range(3)]
        for box in boxes:
            await box.start()
    assert [box.state for box in boxes] == [SandboxState.DESTROYED] * 3
    assert children() == before
    assert_nothing_left(state_home)
    with pytest.raises(SandboxStateError, match="runtime is not open"):
        await AsyncSandbox(boundary="process", runtime=runtime).start()


async def test_cancelling_anywhere_leaves_nothing(state_home: Path) -> None:
    before = children()
    for milliseconds in (0, 1, 5, 20, 60, 120, 250):
        with anyio.move_on_after(milliseconds / 1000):
            async with AsyncSandbox(boundary="process") as box:
                await box.run("import time; time.sleep(60)")
    assert children() == before
    assert_nothing_left(state_home)


async def test_an_error_of_the_body_comes_out_as_it_is(state_home: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        await _fail_inside()
    assert_nothing_left(state_home)


async def _fail_inside() -> None:
    async with AsyncSandbox(boundary="process") as box:
        await box.run("1")
        raise ZeroDivisionError


async def test_damaged_record_is_told_before_anything_starts(state_home: Path) -> None:
    async with Runtime():
        pass
    (state_home / "state.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match="can't be used"):
        async with AsyncSandbox(boundary="process"):
            pytest.fail("must not start")
    assert owners(state_home / "run") == frozenset()


class Absent:
    """A driver that never works, as on a machine without its program."""

    name = "absent"
    boundary = BoundaryKind.VM

    async def probe(self) -> ProbeReport:
        return ProbeReport(
            available=False, version=None, features=frozenset(), reasons=(Reason("x", "no hypervisor", "buy one"),)
        )

    async def aclose(self) -> None:
        """Keep nothing."""


async def test_unavailable_boundary_says_why_and_auto_takes_the_next() -> None:
    table = [
        DriverEntry("absent", f"{__name__}:Absent", BoundaryKind.VM),
        DriverEntry("bwrap", "jubako.drivers.bwrap:BwrapDriver", BoundaryKind.PROCESS),
    ]
    async with Runtime(registry=DriverRegistry(table, tuple)) as runtime:
        with pytest.raises(DriverUnavailableError, match="no hypervisor") as caught:
            await AsyncSandbox(runtime=runtime, boundary="vm").start()
        assert caught.value.hint == "buy one"
        async with AsyncSandbox(boundary="process", runtime=runtime) as box:
            assert box.card().boundary.driver == "bwrap"


class Weak(BwrapDriver):
    """A thicker wall that lacks one control."""

    name = "weak"
    boundary = BoundaryKind.VM

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        plan = super().plan(spec, report)
        missing = ControlResult("fs.second-wall", Enforcement.UNENFORCED, "none", "there is one wall only")
        controls = (*(item for item in plan.controls if item.control != missing.control), missing)
        return dataclasses.replace(plan, controls=controls)


async def test_a_refusal_names_the_boundaries_that_could_hold_it() -> None:
    table = [
        DriverEntry("weak", f"{__name__}:Weak", BoundaryKind.VM),
        DriverEntry("absent", f"{__name__}:Absent", BoundaryKind.VM),
        DriverEntry("nowhere", "jubako.nowhere:Driver", BoundaryKind.MICROVM),
        DriverEntry("bwrap", "jubako.drivers.bwrap:BwrapDriver", BoundaryKind.PROCESS),
    ]
    async with Runtime(registry=DriverRegistry(table, tuple)) as runtime:
        policy = {"require": {"fs.second-wall": "enforced"}}
        with pytest.raises(PolicyNotEnforceableError, match="there is one wall only") as caught:
            await AsyncSandbox(runtime=runtime, policy=policy).start()
        assert "use a boundary that could enforce it: process" in caught.value.hint
        (control,) = cast("list[dict[str, object]]", caught.value.details["controls"])
        assert (control["control"], control["alternatives"]) == ("fs.second-wall", ["process"])
        async with AsyncSandbox(boundary="process", runtime=runtime, policy=policy) as box:
            assert box.card().refusals == ()


async def test_failing_launch_leaves_nothing_and_names_its_cause(runtime: Runtime, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    policy = {"files": {"mounts": [{"source": str(gone), "target": "/data"}]}}
    with pytest.raises((LaunchError, InvalidRequestError)) as caught:
        await AsyncSandbox(boundary="process", runtime=runtime, policy=policy).start()
    assert "gone" in str(caught.value)
    assert runtime.sandboxes() == ()


async def test_explain_and_doctor_start_nothing(state_home: Path) -> None:
    card = await async_explain(boundary="process", policy={"resources": {"memory": "64MiB"}})
    assert card.boundary.kind is BoundaryKind.PROCESS
    report = await async_doctor()
    driver = next(item for item in report.drivers if item.name == "bwrap")
    assert (driver.name, driver.available, driver.usable, report.ok) == ("bwrap", True, True, True)
    assert {control.control for control in driver.controls} >= {"fs.ro-root", "net.default-deny", "time.sandbox"}
    assert not (state_home / "run").exists()


async def test_what_probes_found_is_on_the_card_and_an_escape_refuses_the_launch(state_home: Path) -> None:
    async with AsyncSandbox(boundary="process") as box:
        version = box.card().boundary.version
        assert box.card().probes is None
    kept = state_home / "probes" / "bwrap.json"
    kept.parent.mkdir(mode=0o700)
    document: dict[str, object] = {
        "schema_version": 1,
        "version": version,
        "kernel": os.uname().release,
        "uid": os.geteuid(),
        "started": "2026-01-02T03:04:05+00:00",
        "complete": True,
        "results": [{"control": "fs.ro-root", "verdict": "contained"}],
    }
    kept.write_text(json.dumps(document))
    async with Runtime() as runtime:
        async with AsyncSandbox(boundary="process", runtime=runtime) as box:
            assert box.card().probes is not None
            assert (await async_explain(boundary="process")).digest == box.card().digest
        kept.write_text(json.dumps({**document, "results": [{"control": "fs.ro-root", "verdict": "escaped"}]}))
        with pytest.raises(PolicyNotEnforceableError, match="a containment probe escaped"):
            await AsyncSandbox(boundary="process", runtime=runtime).start()
    async with Runtime(findings=False) as runtime, AsyncSandbox(boundary="process", runtime=runtime) as box:
        assert box.card().probes is None


async def test_a_runtime_that_closes_stops_launches_of_other_tasks(state_home: Path) -> None:
    before = children()
    outcomes: list[str] = []

    async def launch(runtime: Runtime) -> None:
        try:
            await AsyncSandbox(boundary="process", runtime=runtime).start()
        except SandboxStateError as error:
            outcomes.append(error.message)
        else:
            outcomes.append("made")

    async with anyio.create_task_group() as tasks, Runtime() as runtime:
        for _ in range(5):
            tasks.start_soon(launch, runtime)
        await anyio.sleep(0.01)
    assert len(outcomes) == 5
    assert set(outcomes) <= {"made", "the runtime was closed during the launch", "the runtime is not open"}
    assert children() == before
    assert_nothing_left(state_home)


async def test_a_name_held_by_a_dead_owner_is_free(runtime: Runtime, state_home: Path) -> None:
    store = StateStore.open(state_home / "state.db")
    await store.insert(
        SandboxRecord(
            id="old", owner="dead", driver="bwrap", handle="old", state="running", spec="{}",
            created=datetime.now(UTC), name="worker",
        )
    )  # fmt: skip
    async with AsyncSandbox(boundary="process", runtime=runtime, name="worker") as box:
        assert [record.id for record in store.find()] == [box.id]
    store.close()


async def test_what_cannot_be_recorded_does_not_happen(runtime: Runtime, state_home: Path) -> None:
    before = children()
    box = AsyncSandbox(boundary="process", runtime=runtime)
    await box.start()
    held = await box.exec(["sleep", "60"])
    during = children()
    (state_home / "ledger.jsonl").unlink()
    with pytest.raises(LedgerError):
        await box.run("open('ran', 'w')")
    with pytest.raises(LedgerError):
        await AsyncSandbox(boundary="process", runtime=runtime).start()
    assert children() == during
    await held.kill()  # its end can't be recorded either, so the sandbox ends
    await until(lambda: box.state is SandboxState.FAILED)
    with pytest.raises(InstanceLostError, match="removed or replaced under its writer"):
        await box.run("1")
    with pytest.raises(LedgerError):
        await box.destroy()
    assert box.state == "destroyed"
    assert children() == before
    assert runtime.sandboxes() == ()


class Clumsy:
    """A driver with a bug, or on a machine that is full."""

    name = "clumsy"
    boundary = BoundaryKind.VM

    async def probe(self) -> ProbeReport:
        return ProbeReport(available=True, version="1", features=frozenset())

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        controls = tuple(ControlResult(control, Enforcement.ENFORCED, "none") for control in CONTROLS)
        return Plan(driver=self.name, boundary=self.boundary, spec=spec, controls=controls)

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        raise OSError(28, "No space left on device")

    async def aclose(self) -> None:
        """Keep nothing."""


async def test_a_driver_that_breaks_its_word_is_a_launch_error(state_home: Path) -> None:
    registry = DriverRegistry([DriverEntry("clumsy", f"{__name__}:Clumsy", BoundaryKind.VM)], tuple)
    async with Runtime(registry=registry) as runtime:
        with pytest.raises(LaunchError, match="No space left on device"):
            await AsyncSandbox(runtime=runtime).start()
        assert runtime.sandboxes() == ()
    assert_nothing_left(state_home)
