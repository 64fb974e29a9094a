"""Snapshots, restoring and forking: the catalogue, what a child may do, and what is left after failures."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from copying import CopyingDriver, CopyingInstance, copying_registry

from jubako import AsyncSandbox, Policy, Runtime, Sandbox, Snapshot, ToolGrant
from jubako.errors import (
    InvalidPolicyError,
    InvalidRequestError,
    LaunchError,
    LedgerError,
    NameTakenError,
    SandboxStateError,
    SnapshotError,
    SnapshotIncompatibleError,
    SnapshotNotFoundError,
)
from jubako.policy.merge import merge
from jubako.sinks import Ledger, verify_ledger
from jubako.store import StateStore
from jubako.sync import bridge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jubako.events import Event

pytestmark = [pytest.mark.anyio, pytest.mark.driver("bwrap")]


class Collector:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)

    def of(self, sandbox: str | None) -> list[str]:
        return [event.type for event in self.events if event.sandbox == sandbox]

    def data(self, kind: str) -> list[Any]:
        return [event.data for event in self.events if event.type == kind]


@pytest.fixture
def sink() -> Collector:
    return Collector()


@pytest.fixture
async def runtime(sink: Collector) -> AsyncIterator[Runtime]:
    async with Runtime(sinks=[sink], registry=copying_registry()) as made:
        yield made


@pytest.fixture
def driver(runtime: Runtime) -> CopyingDriver:
    loaded = runtime.planner.registry.load("copying")
    assert isinstance(loaded, CopyingDriver)
    return loaded


@pytest.fixture
async def box(runtime: Runtime) -> AsyncIterator[AsyncSandbox]:
    async with AsyncSandbox(runtime=runtime) as made:
        await made.files.write("a.txt", b"first")
        yield made


def left(state_home: Path) -> list[str]:
    place = state_home / "snapshots"
    return sorted(entry.name for entry in place.iterdir() if entry.name != ".lock") if place.exists() else []


async def test_a_snapshot_is_restored_as_often_as_one_likes(
    runtime: Runtime, box: AsyncSandbox, sink: Collector, state_home: Path
) -> None:
    made = await box.snapshot("base")
    assert left(state_home) == [made.digest]
    assert made.document()["boundary"].__class__ is str
    assert (made.name, made.driver, made.boundary, made.origin) == ("base", "copying", "process", box.id)
    assert made.size == (state_home / "snapshots" / made.digest / "parts" / "files.json").stat().st_size
    await box.files.write("a.txt", b"second")
    assert (await box.run("print(open('a.txt').read())")).stdout == "second\n"  # it goes on
    for key in ("base", made.digest, made.digest[:8], made):
        async with AsyncSandbox.restore(key, runtime=runtime) as child:
            assert await child.files.read("a.txt") == b"first"
            assert child.id != box.id
            assert sink.of(child.id)[:3] == ["sandbox.created", "sandbox.restored", "sandbox.state_changed"]
            assert (await child.run("print(1 + 1)")).stdout == "2\n"
    created, restored = sink.data("snapshot.created")[0], sink.data("sandbox.restored")[0]
    assert (created.snapshot, created.name, created.size, created.parent) == (made.digest, "base", made.size, None)
    assert (restored.snapshot, restored.origin) == (made.digest, box.id)


async def test_it_outlives_its_runtime(state_home: Path) -> None:
    async with Runtime(registry=copying_registry()) as first, AsyncSandbox(runtime=first) as box:
        await box.files.write("a.txt", b"kept")
        made = await box.snapshot("kept")
    async with Runtime(registry=copying_registry()) as second:
        (found,) = second.snapshots.list()
        assert found == made
        assert found.document() == made.document()
        assert found.document()["requires"] == {"kernel": "6"}
        async with AsyncSandbox.restore("kept", runtime=second) as child:
            assert await child.files.read("a.txt") == b"kept"
        await second.remove_snapshot("kept")
        assert second.snapshots.list() == []
    assert left(state_home) == []
    assert verify_ledger(state_home / "ledger.jsonl").ok


async def test_children_of_children(runtime: Runtime, box: AsyncSandbox, sink: Collector) -> None:
    first = await box.snapshot()
    async with AsyncSandbox.restore(first, runtime=runtime) as child:
        second = await child.snapshot()
        assert sink.data("snapshot.created")[1].parent == first.digest
        async with AsyncSandbox.restore(second, runtime=runtime) as grandchild:
            assert await grandchild.files.read("a.txt") == b"first"


async def test_a_child_has_at_most_its_parents_rights(runtime: Runtime) -> None:
    terms = Policy.model_validate(
        {"resources": {"processes": 20, "memory": "512MiB"}, "time": {"sandbox": 100.0}, "observe": {}}
    )
    async with AsyncSandbox(runtime=runtime, policy=terms, labels={"team": "a"}, ttl=50) as box:
        await box.snapshot("base")
    asked = Policy.model_validate({"resources": {"processes": 200, "memory": "256MiB"}, "time": {"exec": 7.0}})
    async with AsyncSandbox.restore("base", runtime=runtime, policy=asked, name="child", ttl=70) as child:
        managed = runtime.sandboxes()[0]
        policy = managed.planned.plan.spec.policy
        assert policy == merge(terms, asked)
        assert (policy.resources.processes, policy.resources.memory, policy.time.exec) == (20, 256 * 1024**2, 7.0)
        assert (child.expires - managed.created).total_seconds() == pytest.approx(70)
        assert (managed.planned.plan.spec.name, managed.planned.plan.spec.labels) == ("child", {})
        assert (managed.planned.plan.driver, managed.planned.plan.boundary) == ("copying", "process")
    async with AsyncSandbox.restore("base", runtime=runtime):
        assert runtime.sandboxes()[0].planned.plan.spec.policy == terms
    with pytest.raises(InvalidRequestError, match=r"time\.sandbox is 100 s"):
        await AsyncSandbox.restore("base", runtime=runtime, ttl=101).start()
    with pytest.raises(InvalidPolicyError, match="can't be merged"):
        await AsyncSandbox.restore("base", runtime=runtime, policy={"files": {"workspace": "/other"}}).start()
    with pytest.raises(InvalidRequestError, match="name"):
        await AsyncSandbox.restore("base", runtime=runtime, name="no name").start()


def ping(number: int) -> int:
    """Answer."""
    return number


PING = "import jubako_tools as t\ntry: print(t.call('ping', number=1))\nexcept t.ToolError as error: print(error.code)"


async def test_children_have_what_is_left_of_the_budgets(runtime: Runtime) -> None:
    policy = Policy().with_tools("ping", grant=ToolGrant(calls=2))
    async with AsyncSandbox(runtime=runtime, policy=policy, tools=[ping]) as box:
        await box.run(PING, check=True)
        await box.snapshot("base")
        (fork,) = await box.fork()
        assert [(await fork.run(PING)).stdout.strip() for _ in range(2)] == ["1", "tool-over-budget"]
        assert [(await box.run(PING)).stdout.strip() for _ in range(2)] == ["1", "tool-over-budget"]
    async with AsyncSandbox.restore("base", runtime=runtime, tools=[ping]) as child:
        assert [(await child.run(PING)).stdout.strip() for _ in range(2)] == ["1", "tool-over-budget"]
    with pytest.raises(InvalidRequestError, match="nobody supplies: ping"):
        await AsyncSandbox.restore("base", runtime=runtime).start()
    async with AsyncSandbox.restore("base", runtime=runtime, policy="default") as child:
        assert "ping" not in runtime.sandboxes()[-1].planned.plan.spec.policy.tools
        assert (await child.run("print(1)")).stdout == "1\n"


async def test_forks_go_on_from_here_and_are_apart(runtime: Runtime, box: AsyncSandbox, sink: Collector) -> None:
    children = await box.fork(3, ttl=60)
    assert len({box.id, *(child.id for child in children)}) == 4
    await box.files.write("a.txt", b"parent's")
    for number, child in enumerate(children):
        assert child.state == "running"
        assert await child.files.read("a.txt") == b"first"
        await child.files.write("a.txt", str(number).encode())
        assert child.card().digest == box.card().digest
        assert sink.of(child.id)[:3] == ["sandbox.created", "sandbox.forked", "sandbox.state_changed"]
    assert [data.parent for data in sink.data("sandbox.forked")] == [box.id] * 3
    assert [await child.files.read("a.txt") for child in children] == [b"0", b"1", b"2"]
    async with children[0] as again:
        assert again is children[0]
    assert children[0].state == "destroyed"
    await children[1].destroy()
    assert {item.id for item in runtime.sandboxes()} == {box.id, children[2].id}
    with pytest.raises(SandboxStateError, match="started before"):
        await children[2].start()
    for count in (0, -1, 1001, True, 1.5):
        with pytest.raises(InvalidRequestError, match="1 to 1000 times"):
            await box.fork(count)  # type: ignore[arg-type]  # that is the point


async def test_a_named_sandbox_has_nameless_forks(runtime: Runtime) -> None:
    async with AsyncSandbox(runtime=runtime, name="worker") as box:
        await box.fork(2)
        names = [item.planned.plan.spec.name for item in runtime.sandboxes()]
        assert names == ["worker", None, None]


async def test_all_forks_or_none(runtime: Runtime, box: AsyncSandbox, driver: CopyingDriver, state_home: Path) -> None:
    driver.forks = 2
    with pytest.raises(LaunchError, match="no more memory"):
        await box.fork(4)
    assert [item.id for item in runtime.sandboxes()] == [box.id]
    assert [entry.name for entry in (state_home / "run" / runtime.owner).iterdir()] == [box.id]
    store = StateStore.open(state_home / "state.db")
    assert [record.id for record in store.find()] == [box.id]
    store.close()
    assert (await box.run("print(1)")).stdout == "1\n"


async def test_forks_that_can_not_be_recorded_are_undone(
    runtime: Runtime, box: AsyncSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, seen = Ledger.write, 0

    def failing(self: Ledger, event: Event) -> None:
        nonlocal seen
        seen += event.type == "sandbox.forked"
        if event.type == "sandbox.forked" and seen > 1:
            msg = "the disk is full"
            raise LedgerError(msg)
        write(self, event)

    monkeypatch.setattr(Ledger, "write", failing)
    with pytest.raises(LedgerError):
        await box.fork(3)
    assert [item.id for item in runtime.sandboxes()] == [box.id]


async def test_names_are_unique_and_plain(runtime: Runtime, box: AsyncSandbox, state_home: Path) -> None:
    made = await box.snapshot("base")
    with pytest.raises(NameTakenError, match="another snapshot is named 'base'"):
        await box.snapshot("base")
    for name in ("", "../x", "a/b", "-x", "a" * 64, "é"):
        with pytest.raises(InvalidRequestError, match="is no name for a snapshot"):
            await box.snapshot(name)
    assert left(state_home) == [made.digest]
    await runtime.remove_snapshot(made)
    await box.snapshot("base")


async def test_looking_up(runtime: Runtime, box: AsyncSandbox, driver: CopyingDriver) -> None:
    driver.digest = "abcdef01" + "0" * 56
    first = await box.snapshot()
    driver.digest = "abcdef02" + "0" * 56
    second = await box.snapshot("abcdef01")  # a name that looks like a digest comes first
    assert runtime.snapshots.get("abcdef01") == second
    assert runtime.snapshots.get("abcdef010") == first
    with pytest.raises(SnapshotNotFoundError, match="2 snapshots have a digest that begins with abcdef"):
        runtime.snapshots.get("abcdef")
    for key in ("", "abc", "nothing", "ABCDEF01", "abcdef0*", "f" * 64):
        with pytest.raises(SnapshotNotFoundError, match="no snapshot has the name or digest"):
            runtime.snapshots.get(key)
    assert runtime.snapshots.list() == [first, second]


@pytest.mark.parametrize("digest", ["", "../../etc", "A" * 64, "0" * 63, "0" * 64 + "\n"])
async def test_a_digest_that_is_none_never_becomes_a_path(
    box: AsyncSandbox, driver: CopyingDriver, state_home: Path, digest: str
) -> None:
    driver.digest = digest or "x"
    with pytest.raises(SnapshotError, match="a digest that is none"):
        await box.snapshot()
    assert left(state_home) == []


async def test_the_same_content_twice_is_kept_once(
    runtime: Runtime, box: AsyncSandbox, driver: CopyingDriver, state_home: Path
) -> None:
    driver.digest = "0" * 64
    made = await box.snapshot("one")
    with pytest.raises(SnapshotError, match="exists already"):
        await box.snapshot("two")
    assert runtime.snapshots.list() == [made]
    assert left(state_home) == [made.digest]


async def test_a_full_disk_loses_nothing(
    runtime: Runtime, box: AsyncSandbox, driver: CopyingDriver, state_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await box.snapshot("base")
    driver.failure = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SnapshotError, match="No space left on device") as caught:
        await box.snapshot("second")
    assert "jubako snapshot rm" in caught.value.hint
    driver.failure = SnapshotError("the sentry refused")
    with pytest.raises(SnapshotError, match="the sentry refused"):
        await box.snapshot("second")
    driver.failure = None

    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    await box.files.write("a.txt", b"changed")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SnapshotError, match="Disk quota exceeded"):
            await box.snapshot("second")
    assert left(state_home) == [made.digest]
    assert runtime.snapshots.list() == [made]
    assert box.state == "running"
    async with AsyncSandbox.restore("base", runtime=runtime) as child:
        assert await child.files.read("a.txt") == b"first"
    await box.snapshot("second")


async def test_what_can_not_be_recorded_is_undone(
    runtime: Runtime, box: AsyncSandbox, state_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Ledger.write

    def failing(self: Ledger, event: Event) -> None:
        if event.type == "snapshot.created":
            msg = "the disk is full"
            raise LedgerError(msg)
        write(self, event)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", failing)
        with pytest.raises(LedgerError):
            await box.snapshot("base")
    assert runtime.snapshots.list() == []
    assert left(state_home) == []


async def test_cancelling_leaves_nothing(
    box: AsyncSandbox, driver: CopyingDriver, state_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(self: CopyingInstance) -> dict[str, str]:
        await anyio.sleep_forever()
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(CopyingInstance, "copied", hang)
        with anyio.move_on_after(0.1) as scope:
            await box.snapshot()
    assert scope.cancelled_caught
    assert left(state_home) == []
    await box.snapshot()


async def test_what_is_needed_stays(
    runtime: Runtime, box: AsyncSandbox, driver: CopyingDriver, state_home: Path, sink: Collector
) -> None:
    base = await box.snapshot("base")
    child = AsyncSandbox.restore(base, runtime=runtime)
    await child.start()
    (fork,) = await child.fork()
    with pytest.raises(SnapshotError, match=f"still needed by sandbox {min(child.id, fork.id)}"):
        await runtime.remove_snapshot("base")
    await child.destroy()
    with pytest.raises(SnapshotError, match=f"still needed by sandbox {fork.id} ") as caught:
        await runtime.remove_snapshot("base")
    assert caught.value.details["sandboxes"] == (fork.id,)
    await fork.destroy()
    driver.parent = base.digest
    await box.files.write("a.txt", b"second")
    delta = await box.snapshot("delta")
    with pytest.raises(SnapshotError, match=f"still needed by snapshot {delta.digest[:12]}"):
        await runtime.remove_snapshot("base")
    await runtime.remove_snapshot(delta)
    await runtime.remove_snapshot("base")
    assert left(state_home) == []
    assert [data.name for data in sink.data("snapshot.removed")] == ["delta", "base"]
    with pytest.raises(SnapshotNotFoundError):
        await AsyncSandbox.restore(base, runtime=runtime).start()
    assert [item.id for item in runtime.sandboxes()] == [box.id]


async def test_removing_races_restoring(runtime: Runtime, box: AsyncSandbox) -> None:
    """Either the child lives and the snapshot stays, or the other way round."""
    outcomes: list[str] = []

    async def restore(snapshot: Snapshot) -> None:
        try:
            async with AsyncSandbox.restore(snapshot, runtime=runtime) as child:
                assert await child.files.read("a.txt") == b"first"
                outcomes.append("restored")
        except SnapshotNotFoundError:
            outcomes.append("gone")

    async def remove(snapshot: Snapshot, delay: float) -> None:
        await anyio.sleep(delay)
        try:
            await runtime.remove_snapshot(snapshot)
            outcomes.append("removed")
        except SnapshotError:
            outcomes.append("needed")

    for delay in (0.0, 0.001, 0.003, 0.01):
        outcomes.clear()
        await box.files.write("b.txt", str(delay))
        made = await box.snapshot()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(restore, made)
            tasks.start_soon(remove, made, delay)
        assert sorted(outcomes) in (["needed", "restored"], ["gone", "removed"])


async def test_drivers_that_can_not_say_so(runtime: Runtime, box: AsyncSandbox, driver: CopyingDriver) -> None:
    made = await box.snapshot("base")
    driver.kernel = "7"
    with pytest.raises(SnapshotIncompatibleError, match="another kernel"):
        await AsyncSandbox.restore(made, runtime=runtime).start()
    driver.snapshots = False
    with pytest.raises(SnapshotIncompatibleError, match="driver copying can't restore snapshots"):
        await AsyncSandbox.restore(made, runtime=runtime).start()
    async with AsyncSandbox(runtime=runtime, policy={"time": {"exec": 9.0}}) as plain:
        with pytest.raises(InvalidRequestError, match="driver copying has no snapshot"):
            await plain.snapshot()
        with pytest.raises(InvalidRequestError, match="driver copying has no fork"):
            await plain.fork()
    assert [item.id for item in runtime.sandboxes()] == [box.id]


async def test_states_that_allow_it(runtime: Runtime) -> None:
    for pending in (AsyncSandbox(runtime=runtime), AsyncSandbox()):
        with pytest.raises(SandboxStateError, match="snapshot: the sandbox is not started"):
            await pending.snapshot()
        with pytest.raises(SandboxStateError, match="fork: the sandbox is not started"):
            await pending.fork()
    async with AsyncSandbox(runtime=runtime) as box:
        await box.stop(grace=0.1)
        for action in (box.snapshot, partial(box.fork, 2)):
            with pytest.raises(SandboxStateError, match="this one is stopped"):
                await action()
    assert runtime.sandboxes() == ()


LEAVER = """
import os, sys, anyio
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from copying import CopyingInstance, copying_registry
from jubako import AsyncSandbox, Runtime
async def die(self):
    os.kill(os.getpid(), 9)
async def main():
    async with Runtime(registry=copying_registry()) as runtime, AsyncSandbox(runtime=runtime) as box:
        await box.snapshot("kept")
        if sys.argv[2] == "writing":
            CopyingInstance.copied = die
            await box.snapshot("unfinished")
        async with AsyncSandbox.restore("kept", runtime=runtime):
            await die(None)
anyio.run(main)
"""


@pytest.mark.parametrize("at", ["writing", "restored"])
async def test_killed_at_any_point(state_home: Path, at: str) -> None:
    here = Path(__file__).with_name("copying.py")
    done = await anyio.run_process([sys.executable, "-c", LEAVER, str(here), at], check=False)
    assert done.returncode == -9, done.stderr
    assert len(left(state_home)) == (2 if at == "writing" else 1)
    async with Runtime(registry=copying_registry()) as runtime:
        (kept,) = runtime.snapshots.list()
        assert left(state_home) == [kept.digest]
        async with AsyncSandbox.restore("kept", runtime=runtime) as child:
            assert (await child.run("print(1)")).stdout == "1\n"
        await runtime.remove_snapshot("kept")  # the dead child doesn't need it any more
    assert left(state_home) == []


async def test_files_without_a_record_go_and_those_of_the_living_stay(
    runtime: Runtime, box: AsyncSandbox, state_home: Path
) -> None:
    made = await box.snapshot()
    place = state_home / "snapshots"
    (place / ("9" * 64)).mkdir()
    mine = place / f".new-{runtime.owner}-x"
    mine.mkdir()
    (place / ".new-dead-x").mkdir()
    async with Runtime(registry=copying_registry()):
        assert left(state_home) == sorted([mine.name, made.digest])


async def test_an_unreadable_record_is_told(runtime: Runtime, box: AsyncSandbox, state_home: Path) -> None:
    await box.snapshot("base")
    store = StateStore.open(state_home / "state.db")
    await store.database.write("UPDATE snapshots SET spec = ?", ('{"policy":{"unknown":1}}',))
    store.close()
    with pytest.raises(SnapshotError, match="can't be read by this version"):
        await AsyncSandbox.restore("base", runtime=runtime).start()
    shutil.rmtree(state_home / "snapshots" / runtime.snapshots.get("base").digest)
    await runtime.remove_snapshot("base")


def test_blocking_callers_snapshot_restore_and_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "Runtime", partial(Runtime, registry=copying_registry()))
    with Sandbox() as box:
        box.files.write("a.txt", "first")
        made = box.snapshot("base")
        children = box.fork(2, ttl=60)
        for child in children:
            assert child.files.read_text("a.txt") == "first"
        with children[0] as first:
            assert first.run("print(1)").stdout == "1\n"
        children[1].destroy()
        assert [child.state for child in children] == ["destroyed", "destroyed"]
    for key in (made, "base"):
        with Sandbox.restore(key, name="child", labels={"a": "b"}) as child:
            assert child.files.read_text("a.txt") == "first"
            assert child.policy == made.spec.policy
            assert child.run_file("a.txt", "x", language="bash", check=False).exit_code == 127
