"""One sandbox under the runtime's care: its state, its time, its record, its events."""

from __future__ import annotations

import shutil
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

import anyio

from jubako.boundary.contract import DriverContext, Feature, Forkable, Pausable, PortForwarding, Snapshottable
from jubako.errors import InstanceLostError, InvalidRequestError, JubakoError, LaunchError, SandboxExpiredError
from jubako.events import ExecExited, ExecStarted, LimitReached, PolicyRelaxed, SandboxCreated, SandboxStateChanged
from jubako.policy import AcceptWeaker
from jubako.runtime.lifecycle import TRANSITIONS, Lifecycle, SandboxState
from jubako.runtime.toolbox import Toolbox
from jubako.store import SandboxRecord

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
    from pathlib import Path

    from anyio.abc import ByteStream, TaskGroup

    from jubako.boundary.contract import ExecRequest, Instance, InstanceExit, Process, SnapshotRef, Usage
    from jubako.events import EventData
    from jubako.runtime.planner import Planned
    from jubako.runtime.tools import Tool
    from jubako.store import StateStore

    Maker = Callable[[DriverContext], Awaitable[Instance]]

__all__ = ["Descent", "ManagedSandbox", "recordable"]

_RUNNING: Final = SandboxState.RUNNING
_LOOK: Final = 15.0


@dataclass(frozen=True, slots=True)
class Descent:
    """Where a sandbox comes from that goes on from another one.

    Attributes:
        event: Says so.
        snapshot: The snapshot whose files it needs as long as it lives.
        spent: Calls of host functions that count as made.
    """

    event: EventData
    snapshot: str | None = None
    spent: Mapping[str, int] = field(default_factory=dict[str, int])


class ManagedSandbox:
    """A sandbox from the decision to make it to its end. Made by ``Runtime.create``."""

    def __init__(
        self,
        sandbox_id: str,
        planned: Planned,
        *,
        ttl: float,
        directory: Path,
        store: StateStore,
        tasks: TaskGroup,
        emit: Callable[[EventData], None],
        on_gone: Callable[[ManagedSandbox], None],
        tools: Iterable[Tool] = (),
        descent: Descent | None = None,
    ) -> None:
        self.id = sandbox_id
        self.planned = planned
        self.created = datetime.now(UTC)
        self.expires = self.created + timedelta(seconds=ttl)
        self.emit = emit
        self.lifecycle = Lifecycle(self._changed)
        self.descent = descent
        self._ttl = ttl
        self._on_gone = on_gone
        self._directory = directory
        self._store = store
        self._tasks = tasks
        self.toolbox = self._equip(tools)
        self._instance: Instance | None = None
        self._steps = anyio.Lock(fast_acquire=True)
        self._ending = anyio.Lock(fast_acquire=True)
        self._watching: anyio.CancelScope | None = None

    # The way up.

    async def launch(self, owner: str, make: Maker | None = None) -> None:
        """Build and start it, or leave nothing. Raises LaunchError, NameTakenError or what the driver says.

        ``make`` builds it in another way than the driver's ``create``.
        """
        async with self.arriving(owner) as context:
            if make is None:
                self._instance = await self.planned.driver.create(self.planned.plan, context)
            else:
                self._instance = await make(context)
            await self._instance.start()

    def adopt(self, instance: Instance) -> None:
        """Take a started instance over. Pre: within ``arriving``."""
        self._instance = instance

    @asynccontextmanager
    async def arriving(self, owner: str) -> AsyncGenerator[DriverContext, None]:
        """Yield what the driver needs to make it; on leaving it is running, or on an error nothing is left."""
        try:
            await self._store.insert(self._record(owner))
            self._directory.mkdir(mode=0o700)
            yield DriverContext(self.id, owner, self._directory, self._tasks, self.emit, tools=self.toolbox)
            self._announce()
            self.lifecycle.move(_RUNNING)
            await self._store.set_state(self.id, _RUNNING)
        except BaseException as error:
            await self._undo(error)
            if isinstance(error, Exception) and not isinstance(error, JubakoError):
                msg = f"the sandbox could not be made: {error}"
                raise LaunchError(msg, details={"driver": self.planned.plan.driver}) from error
            raise
        self._tasks.start_soon(self._watch)

    def _equip(self, tools: Iterable[Tool]) -> Toolbox | None:
        grants = self.planned.plan.spec.policy.tools
        if not grants:
            return None
        box = Toolbox(tools, grants, self.emit, lambda error: self._tasks.start_soon(self._fail, error))
        if self.descent is not None:
            box.spend(self.descent.spent)
        return box

    def _record(self, owner: str) -> SandboxRecord:
        spec = self.planned.plan.spec
        return SandboxRecord(
            id=self.id,
            owner=owner,
            driver=self.planned.plan.driver,
            handle=self.id,
            state=self.lifecycle.state,
            spec=spec.model_dump_json(exclude_defaults=True),
            created=self.created,
            card=self.planned.digest,
            name=spec.name,
            expires=self.expires,
            labels=dict(spec.labels),
            snapshot=self.descent.snapshot if self.descent is not None else None,
        )

    def _announce(self) -> None:
        plan = self.planned.plan
        for item in plan.spec.policy.relaxations:
            subject = item.control if isinstance(item, AcceptWeaker) else item.source
            self.emit(PolicyRelaxed(kind=item.kind, subject=subject, reason=item.reason))
        self.emit(
            SandboxCreated(driver=plan.driver, boundary=plan.boundary, card=self.planned.digest, name=plan.spec.name)
        )
        if self.descent is not None:
            self.emit(self.descent.event)

    async def _undo(self, error: BaseException) -> None:
        try:
            await self.destroy(reason=f"launch failed: {type(error).__name__}")
        except (JubakoError, OSError) as second:
            error.add_note(f"and cleaning up failed, the next start goes on with it: {second}")

    # While it lives.

    @contextmanager
    def using(self, call: str, *states: SandboxState) -> Generator[Instance]:
        """Yield the instance for one call. Raises SandboxStateError and its kin where the state forbids it."""
        self.lifecycle.require(call, *(states or (_RUNNING,)))
        with self.losing(call):
            yield cast("Instance", self._instance)

    @contextmanager
    def losing(self, call: str) -> Generator[None]:
        """Say why the instance was lost, where the runtime knows better than the driver."""
        try:
            yield
        except InstanceLostError as error:
            try:
                self.lifecycle.require(call, *SandboxState)
            except JubakoError as better:
                raise better from error
            raise

    async def exec(self, request: ExecRequest) -> Process:
        """Start a program and record its start and, later, its end."""
        with self.using("exec") as instance:
            process = await instance.exec(request)
        argv = tuple(recordable(item) for item in request.argv)
        cwd = recordable(str(request.cwd)) if request.cwd is not None else None
        try:
            self.emit(ExecStarted(exec=process.id, argv=argv, cwd=cwd, tty=request.tty is not None))
        except JubakoError:
            await process.kill()  # what can't be recorded must not run
            raise
        self._tasks.start_soon(self._follow, process, time.monotonic())
        return process

    async def _follow(self, process: Process, started: float) -> None:
        try:
            status = await process.wait()
        except JubakoError:
            status = None  # lost with its sandbox, which has its own event
        limits = tuple(sorted(status.limits)) if status is not None else ()
        code, signal = (status.code, status.signal) if status is not None else (None, None)
        seconds = round(time.monotonic() - started, 6)
        try:
            self.emit(ExecExited(exec=process.id, code=code, signal=signal, limits=limits, seconds=seconds))
            for control in limits:
                self.emit(LimitReached(control=control, exec=process.id))
        except JubakoError as error:
            await self._fail(error)

    async def usage(self) -> Usage:
        """Return what it has used so far."""
        with self.using("usage", _RUNNING, SandboxState.PAUSED) as instance:
            return await instance.usage()

    async def connect(self, port: int) -> ByteStream:
        """Open a stream to a TCP port inside."""
        if not 1 <= port <= 65535:
            msg = f"{port} is not a TCP port"
            raise InvalidRequestError(msg, details={"port": port})
        with self.using("connect") as instance:
            if Feature.PORTS not in self.planned.plan.features or not isinstance(instance, PortForwarding):
                raise self._lacking(Feature.PORTS)
            return await instance.connect(port)

    async def pause(self) -> None:
        """Freeze it. Nothing happens when it is paused already."""
        async with self._steps:
            if self.lifecycle.state is SandboxState.PAUSED:
                return
            with self.using("pause") as instance:
                await self._pausable(instance).pause()
            await self._arrive("pause", SandboxState.PAUSED)

    async def resume(self) -> None:
        """Let it go on. Nothing happens when it runs already."""
        async with self._steps:
            if self.lifecycle.state is _RUNNING:
                return
            with self.using("resume", SandboxState.PAUSED) as instance:
                await self._pausable(instance).resume()
            await self._arrive("resume", _RUNNING)

    async def stop(self, grace: timedelta) -> None:
        """End everything inside. Nothing happens when it is stopped already."""
        async with self._steps:
            if self.lifecycle.state is SandboxState.STOPPED:
                return
            with self.using("stop", _RUNNING, SandboxState.PAUSED) as instance:
                if self.lifecycle.state is SandboxState.PAUSED:
                    await self._pausable(instance).resume()  # a frozen program can't hear SIGTERM
                await instance.stop(grace=grace)
            await self._arrive("stop", SandboxState.STOPPED)

    async def _arrive(self, call: str, state: SandboxState) -> None:
        # It may have died or been destroyed while the driver was at work.
        self.lifecycle.require(call, *(origin for origin, targets in TRANSITIONS.items() if state in targets))
        self.lifecycle.move(state)
        await self._store.set_state(self.id, state)

    async def write_down(self, directory: Path) -> SnapshotRef:
        """Write it into an empty directory; it goes on running. Raises SnapshotError and its kin."""
        async with self._steps:
            with self.using("snapshot") as instance:
                if Feature.SNAPSHOT not in self.planned.plan.features or not isinstance(instance, Snapshottable):
                    raise self._lacking(Feature.SNAPSHOT)
                return await instance.snapshot(directory, memory=True)

    async def multiply(self, contexts: Sequence[DriverContext]) -> Sequence[Instance]:
        """Return a started instance a context that goes on from here, all or none."""
        async with self._steps:
            with self.using("fork") as instance:
                if Feature.FORK not in self.planned.plan.features or not isinstance(instance, Forkable):
                    raise self._lacking(Feature.FORK)
                return await instance.fork(contexts)

    def _pausable(self, instance: Instance) -> Pausable:
        if Feature.PAUSE not in self.planned.plan.features or not isinstance(instance, Pausable):
            raise self._lacking(Feature.PAUSE)
        return instance

    def _lacking(self, feature: Feature) -> InvalidRequestError:
        reasons = [item for item in self.planned.report.reasons if feature in item.code or "cgroup" in item.code]
        msg = f"driver {self.planned.plan.driver} has no {feature} on this machine"
        return InvalidRequestError(
            msg, hint=reasons[0].remedy if reasons else "jubako doctor says why", details={"feature": str(feature)}
        )

    # The way down.

    async def destroy(self, *, reason: str = "destroyed", code: str = "") -> None:
        """Remove every trace, from any state, idempotent, not to be cancelled half-way."""
        with anyio.CancelScope(shield=True):
            self.lifecycle.close(code)
            async with self._ending:
                # Before the state is asked: a launch may have made it since another call saw none.
                if self._instance is not None:
                    await self._instance.destroy()
                if self.lifecycle.state is SandboxState.DESTROYED:
                    return
                await self._put_away_tools()
                shutil.rmtree(self._directory, ignore_errors=True)
                await self._store.delete(self.id)
                try:
                    self.lifecycle.move(SandboxState.DESTROYED, reason=reason, code=code)
                finally:
                    self._on_gone(self)
        if self._watching is not None:
            self._watching.cancel()

    async def _put_away_tools(self) -> None:
        if self.toolbox is None:
            return
        try:
            await self.toolbox.aclose()
        except JubakoError as error:
            await self._fail(error)

    async def _watch(self) -> None:
        """Notice the end of its time, and a death that nobody asked for."""
        deadline = _now() + self._ttl - (datetime.now(UTC) - self.created).total_seconds()
        with anyio.CancelScope() as self._watching:
            while (left := deadline - _now()) > 0:
                ended: InstanceExit | None = None
                # Short looks, because the loop's own clock stands still while the machine sleeps.
                with anyio.move_on_after(min(left, _LOOK)):
                    ended = await cast("Instance", self._instance).wait()
                if ended is not None:
                    await self._ended(ended)
                    return
            await self._expire()

    async def _expire(self) -> None:
        # Its time is up: control time.sandbox.
        self.lifecycle.close(SandboxExpiredError.code)
        try:
            self.emit(LimitReached(control="time.sandbox"))
            await self.destroy(reason="time to live ran out", code=SandboxExpiredError.code)
        except JubakoError as error:
            await self._fail(error)

    async def _ended(self, ended: InstanceExit) -> None:
        if self.lifecycle.closing or ended.code in {"destroyed", "stopped"}:
            return
        try:
            for control in sorted(ended.limits):
                self.emit(LimitReached(control=control))
            if self.lifecycle.can(SandboxState.FAILED):
                self.lifecycle.move(SandboxState.FAILED, reason=ended.message or ended.code, code=ended.code)
                await self._store.set_state(self.id, SandboxState.FAILED)
        except JubakoError as error:
            await self._fail(error)

    async def _fail(self, error: JubakoError) -> None:
        """End a sandbox whose doings can no longer be recorded: what isn't seen must not run."""
        if self.lifecycle.can(SandboxState.FAILED):
            self.lifecycle.fail_silently(str(error), error.code)
        with anyio.CancelScope(shield=True), suppress(JubakoError, OSError):  # the caller's destroy tries again
            if self._instance is not None:
                await self._instance.destroy()

    def _changed(self, previous: SandboxState, state: SandboxState, reason: str) -> None:
        self.emit(SandboxStateChanged(previous=previous, state=state, reason=reason))


def recordable(text: str) -> str:
    """Return the text in a form that events can hold: lone surrogates of odd file names are escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _now() -> float:
    """Seconds that also count while the machine sleeps, and that nobody sets back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
