"""The runtime: one owner of sandboxes, from its start to its end."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self, TypeVar, cast

import anyio

from jubako._lib.ids import short_id
from jubako._lib.paths import private_dir, state_dir
from jubako.errors import JubakoError, NameTakenError, PolicyNotEnforceableError, SandboxStateError, StoreError
from jubako.events import Recorder, SandboxForked, SandboxRefused, SandboxRestored, SnapshotCreated, SnapshotRemoved
from jubako.runtime.arguments import ttl_seconds
from jubako.runtime.lifecycle import SandboxState
from jubako.runtime.managed import Descent, ManagedSandbox
from jubako.runtime.offspring import check_count, restored_spec, restorer_of
from jubako.runtime.owner import OwnerLock, owners
from jubako.runtime.planner import Planner
from jubako.runtime.reaper import reap_dead_owners
from jubako.runtime.snapshots import Draft, SnapshotCatalogue
from jubako.runtime.tools import supplied_tools
from jubako.sinks import Ledger
from jubako.store import ProbeFindings, StateStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from anyio.abc import TaskGroup, TaskStatus

    from jubako.boundary.contract import DriverContext, Instance
    from jubako.boundary.registry import DriverRegistry
    from jubako.events import EventData, Redactor, Sink
    from jubako.policy import Policy, SandboxSpec
    from jubako.runtime.arguments import Seconds
    from jubako.runtime.managed import Maker
    from jubako.runtime.planner import Planned
    from jubako.runtime.snapshots import Snapshot
    from jubako.runtime.tools import Tool, ToolLike

__all__ = ["LEDGER", "Runtime"]

LEDGER: Final = "ledger.jsonl"
"""Name of the ledger in the state directory."""

T = TypeVar("T")

_DATABASE: Final = "state.db"
_ATTEMPTS: Final = 8


class Runtime:
    """Makes, watches and removes sandboxes. Use it as an asynchronous context manager.

    On entering it cleans up after owners that died; on leaving it destroys its sandboxes. Programs
    that make many sandboxes share one; each ``AsyncSandbox`` without one has its own.

    Args:
        state: Where records, locks and the ledger are; ``$XDG_STATE_HOME/jubako`` when left out.
        registry: The drivers that may be used; the installed ones when left out.
        sinks: Where events go besides the ledger.
        redactor: Takes known secrets out of events.
        findings: Whether cards show what containment probes found here, and a control that a probe
            broke counts as not held. The probes themselves must do without.
    """

    def __init__(
        self,
        *,
        state: Path | None = None,
        registry: DriverRegistry | None = None,
        sinks: Iterable[Sink] = (),
        redactor: Redactor | None = None,
        findings: bool = True,
    ) -> None:
        self._state = private_dir(state) if state is not None else state_dir()
        self.planner = Planner(registry, ProbeFindings(self._state) if findings else None)
        self._sinks = tuple(sinks)
        self._redactor = redactor
        self._sandboxes: dict[str, ManagedSandbox] = {}
        self._open = False
        self._lock: OwnerLock | None = None
        self._store: StateStore | None = None
        self._catalogue: SnapshotCatalogue | None = None
        self._ledger: Ledger | None = None
        self._recorder: Recorder | None = None
        self._outer: TaskGroup | None = None
        self._tasks: TaskGroup | None = None
        self._leave = anyio.Event()
        self._launches: set[anyio.CancelScope] = set()
        self._launched = anyio.Event()

    @property
    def owner(self) -> str:
        """The id under which this runtime's sandboxes are recorded."""
        return self._ready()[0].owner

    def sandboxes(self) -> tuple[ManagedSandbox, ...]:
        """Return the sandboxes that this runtime has and has not destroyed, oldest first."""
        return tuple(self._sandboxes.values())

    async def __aenter__(self) -> Self:
        self._outer = anyio.create_task_group()
        await self._outer.__aenter__()
        try:
            self._acquire()
            await self._reap()
            with anyio.CancelScope(shield=True):  # the host itself is shielded, so half a start would never end
                self._tasks = await self._outer.start(self._host)
        except BaseException:
            self._leave.set()
            try:
                await self._outer.__aexit__(None, None, None)
            finally:
                self._release()
            raise
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        failures: list[Exception] = []
        with anyio.CancelScope(shield=True):
            await self._stop_launches()
            async with anyio.create_task_group() as tasks:
                for sandbox in self.sandboxes():
                    tasks.start_soon(self._destroy, sandbox, failures)
        self._leave.set()
        try:
            if self._outer is not None:
                # The body's own error must come out as it is, so the group isn't told of it.
                await self._outer.__aexit__(None, None, None)
        finally:
            with anyio.CancelScope(shield=True):
                await self.planner.aclose()
            self._release(clean=not failures)
        if failures and error is None:
            raise failures[0]

    @property
    def snapshots(self) -> SnapshotCatalogue:
        """The snapshots of this user."""
        self._ready()
        return cast("SnapshotCatalogue", self._catalogue)

    async def create(
        self, spec: SandboxSpec, *, ttl: float | None = None, tools: Sequence[ToolLike] = ()
    ) -> ManagedSandbox:
        """Make and start a sandbox that holds every required control, or leave nothing.

        ``tools`` are exactly the host functions that the policy grants. Raises
        PolicyNotEnforceableError, DriverUnavailableError, InvalidRequestError, LaunchError,
        NameTakenError and other errors below JubakoError.
        """
        self._ready()
        supplied = supplied_tools(tools, spec.policy)
        planned = await self._decide(spec)

        async def launch() -> ManagedSandbox:
            return await self._launch(self._new(planned, ttl, supplied))

        return await self._named(launch)

    async def restore(
        self,
        snapshot: Snapshot | str,
        *,
        policy: Policy | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        ttl: Seconds = None,
        tools: Sequence[ToolLike] = (),
    ) -> ManagedSandbox:
        """Make a sandbox that goes on from a snapshot, by object, name or digest, with an identity of its own.

        It has at most the rights that the snapshot's sandbox had: ``policy`` can only narrow them.
        Raises SnapshotNotFoundError, SnapshotIncompatibleError and what ``create`` raises.
        """
        found = self.snapshots.get(snapshot if isinstance(snapshot, str) else snapshot.digest)
        spec = restored_spec(found, policy, name=name, labels=labels)
        supplied = supplied_tools(tools, spec.policy)
        seconds = ttl_seconds(ttl, spec.policy)
        planned = await self._decide(spec)
        restorer = restorer_of(planned, found)
        descent = Descent(SandboxRestored(snapshot=found.digest, origin=found.origin), found.digest, found.record.spent)

        async def launch() -> ManagedSandbox:
            async def make(context: DriverContext) -> Instance:
                # Looked for when the sandbox has its record, so that nobody removes the files any more.
                return await restorer.restore(found.ref, self.snapshots.directory(found), planned.plan, context)

            return await self._launch(self._new(planned, seconds, supplied, descent), make)

        return await self._named(launch)

    async def fork(self, sandbox: ManagedSandbox, count: int = 1, *, ttl: Seconds = None) -> list[ManagedSandbox]:
        """Make ``count`` sandboxes that go on from a running one with its rights, all of them or none.

        They have identities of their own and no name; the running one goes on. Raises
        InvalidRequestError where the driver can't, and LaunchError.
        """
        lock = self._ready()[0]
        check_count(count)
        seconds = ttl_seconds(ttl, sandbox.planned.plan.spec.policy)
        spec = sandbox.planned.plan.spec.model_copy(update={"name": None})
        planned = replace(sandbox.planned, plan=replace(sandbox.planned.plan, spec=spec))
        toolbox = sandbox.toolbox
        descent = Descent(
            SandboxForked(parent=sandbox.id),
            # What it was restored from may hold memory that the children share with it.
            sandbox.descent.snapshot if sandbox.descent is not None else None,
            toolbox.spent if toolbox is not None else {},
        )
        tools = toolbox.tools if toolbox is not None else ()
        children = [self._new(planned, seconds, tools, descent) for _ in range(count)]

        async def launch() -> list[ManagedSandbox]:
            async with AsyncExitStack() as stack:
                contexts = [await stack.enter_async_context(child.arriving(lock.owner)) for child in children]
                for child, instance in zip(children, await sandbox.multiply(contexts), strict=True):
                    child.adopt(instance)
            return children

        try:
            return await self._launching(launch)
        except BaseException:
            with anyio.CancelScope(shield=True):
                for child in children:  # those that had arrived before another one failed
                    await child.destroy(reason="another fork failed")
            raise

    async def snapshot(self, sandbox: ManagedSandbox, name: str | None = None) -> Snapshot:
        """Write a running sandbox down; it goes on. Raises SnapshotError, SandboxStateError, NameTakenError."""
        came_from = sandbox.descent.snapshot if sandbox.descent is not None else None
        draft = Draft(
            spec=sandbox.planned.plan.spec,
            boundary=str(sandbox.planned.plan.boundary),
            origin=sandbox.id,
            spent=sandbox.toolbox.spent if sandbox.toolbox is not None else {},
            write=sandbox.write_down,
        )
        made = await self.snapshots.add(draft, name)
        event = SnapshotCreated(snapshot=made.digest, driver=made.driver, size=made.size, name=name, parent=came_from)
        try:
            # A sandbox that ended meanwhile has told its last; then it is an event of the machine.
            (self.record if sandbox.lifecycle.state is SandboxState.DESTROYED else sandbox.emit)(event)
        except JubakoError:
            await self.snapshots.remove(made)
            raise
        return made

    async def remove_snapshot(self, snapshot: Snapshot | str) -> None:
        """Remove a snapshot. Raises SnapshotError while a sandbox or another snapshot needs its files."""
        found = self.snapshots.get(snapshot if isinstance(snapshot, str) else snapshot.digest)
        await self.snapshots.remove(found)
        self.record(SnapshotRemoved(snapshot=found.digest, name=found.name))

    async def _decide(self, spec: SandboxSpec) -> Planned:
        try:
            return await self.planner.decide(spec)
        except PolicyNotEnforceableError as error:
            self._refused(self._ready()[2], error)
            raise

    async def _named(self, launch: Callable[[], Awaitable[ManagedSandbox]]) -> ManagedSandbox:
        try:
            return await launch()
        except NameTakenError:
            # Perhaps only by the leftovers of an owner that died since we started.
            if not await self._reap():
                raise
        return await launch()

    def _new(
        self, planned: Planned, ttl: float | None, tools: Iterable[Tool], descent: Descent | None = None
    ) -> ManagedSandbox:
        lock, store, recorder, tasks = self._ready()
        sandbox_id = short_id()

        def emit(data: EventData) -> None:
            recorder.record(sandbox_id, data)

        sandbox = ManagedSandbox(
            sandbox_id,
            planned,
            ttl=planned.plan.spec.policy.time.sandbox if ttl is None else ttl,
            directory=lock.directory / sandbox_id,
            store=store,
            tasks=tasks,
            emit=emit,
            on_gone=self._forget,
            tools=tools,
            descent=descent,
        )
        # One that can't be cleaned up after a failed launch stays here, and leaving tries again.
        self._sandboxes[sandbox_id] = sandbox
        return sandbox

    async def _launch(self, sandbox: ManagedSandbox, make: Maker | None = None) -> ManagedSandbox:
        owner = self.owner

        async def launch() -> ManagedSandbox:
            await sandbox.launch(owner, make)
            return sandbox

        return await self._launching(launch)

    async def _launching(self, launch: Callable[[], Awaitable[T]]) -> T:
        """Return what ``launch`` returns. Raises SandboxStateError when the runtime closes meanwhile."""
        scope = anyio.CancelScope()
        self._launches.add(scope)
        try:
            with scope:
                return await launch()
        finally:
            self._launches.discard(scope)
            self._launched.set()
        msg = "the runtime was closed during the launch"
        raise SandboxStateError(msg)

    async def _stop_launches(self) -> None:
        """Cancel the launches of other tasks and return when they have cleaned up."""
        for scope in self._launches:
            scope.cancel()
        while self._launches:
            self._launched = anyio.Event()
            await self._launched.wait()

    def record(self, data: EventData) -> None:
        """Record an event of the machine, which belongs to no sandbox."""
        self._ready()[2].record(None, data)

    def disown(self) -> None:
        """Let go of the owner's lock in a forked child, which would else seem to keep a dead owner alive."""
        if self._lock is not None:
            self._lock.abandon()

    def _forget(self, sandbox: ManagedSandbox) -> None:
        if self._sandboxes.pop(sandbox.id, None) is not None and self._recorder is not None:
            self._recorder.forget(sandbox.id)

    @staticmethod
    async def _destroy(sandbox: ManagedSandbox, failures: list[Exception]) -> None:
        try:
            await sandbox.destroy(reason="the runtime ended")
        except Exception as error:  # noqa: BLE001  # the others go first; it is raised at the end
            failures.append(error)

    @staticmethod
    def _refused(recorder: Recorder, error: PolicyNotEnforceableError) -> None:
        found = cast("Sequence[Mapping[str, object]]", error.details.get("controls", ()))
        controls = tuple(str(item["control"]) for item in found)
        driver = str(error.details.get("driver", ""))
        recorder.record(None, SandboxRefused(driver=driver, controls=controls, reason=error.message))

    def _ready(self) -> tuple[OwnerLock, StateStore, Recorder, TaskGroup]:
        if not self._open or not (self._lock and self._store and self._recorder and self._tasks):
            msg = "the runtime is not open"
            raise SandboxStateError(msg, hint="use it within `async with Runtime() as runtime:`")
        return self._lock, self._store, self._recorder, self._tasks

    async def _host(self, *, task_status: TaskStatus[TaskGroup]) -> None:
        # Background work of sandboxes must outlive a cancelled caller until the sandbox is destroyed.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                task_status.started(tasks)
                await self._leave.wait()
                tasks.cancel_scope.cancel()

    def _acquire(self) -> None:
        state = self._state
        run = private_dir(state / "run")
        for _ in range(_ATTEMPTS):
            self._lock = OwnerLock.acquire(run, short_id())
            if self._lock is not None:
                break
        else:
            msg = f"no owner lock can be taken in {run}"
            raise StoreError(msg)
        private_dir(self._lock.directory)
        self._store = StateStore.open(state / _DATABASE)
        self._catalogue = SnapshotCatalogue(state, self._store, self._lock.owner)
        self._ledger = Ledger(state / LEDGER)
        self._recorder = Recorder(self._ledger, self._sinks, self._redactor)
        for notice in self._ledger.notices():
            self._recorder.record(None, notice)

    async def _reap(self) -> int:
        if self._lock is None or self._store is None or self._recorder is None:
            return 0
        reaped = await reap_dead_owners(self._lock, self._store, self.planner.registry, self._recorder)
        await self._tidy_snapshots(self._lock)
        return reaped

    async def _tidy_snapshots(self, own: OwnerLock) -> None:
        alive = owners(own.directory.parent)  # the dead have just been reaped
        if self._catalogue is not None:
            await self._catalogue.tidy(lambda owner: owner not in alive)

    def _release(self, *, clean: bool = True) -> None:
        with ExitStack() as last_first:
            if self._lock is not None:
                # Without the lock the next start goes on where this one failed.
                last_first.callback(self._lock.release if clean else self._lock.abandon)
            if self._ledger is not None:
                last_first.callback(self._ledger.close)
            if self._store is not None:
                last_first.callback(self._store.close)
