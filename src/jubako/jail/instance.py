"""An instance whose first process is the guest agent: the session, the cgroup, and their common end.

A driver says how its walls are launched and checked; everything else is the same behind every wall.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import anyio
from anyio import to_thread

from jubako.boundary.contract import InstanceExit, InstanceRef, Usage
from jubako.errors import BoundaryError, InstanceLostError, LaunchError, SandboxStateError
from jubako.events import AgentViolated
from jubako.guest import GuestSession, SocketStream
from jubako.jail.names import full_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from anyio.abc import ByteStream

    from jubako.boundary.contract import DriverContext, ExecRequest, Files, Plan, Process, ToolLink
    from jubako.guest import SessionConfig
    from jubako.guest.link import GuestStream
    from jubako.jail.group import LaunchGroup
    from jubako.linux.cgroup import Cgroup, CgroupUsage

__all__ = ["AgentInstance", "LaunchedSandbox"]

_DYING_SECONDS: Final = 0.5


class LaunchedSandbox(Protocol):
    """Walls with the agent running inside, and the stream to it."""

    @property
    def stream(self) -> socket.socket:
        """The host's end; the session closes nothing, ``tear_down`` does."""
        ...

    @property
    def group(self) -> LaunchGroup:
        """The sandbox's cgroup, perhaps still in the making."""
        ...

    def kill(self) -> None:
        """Kill everything inside; no error when it is gone."""
        ...

    async def ended(self) -> None:
        """Return once the sandbox has ended, for whatever reason."""
        ...

    def last_words(self) -> str:
        """Return what the mechanism or the agent said on their error output so far. Never waits."""
        ...

    async def tear_down(self) -> None:
        """End everything and free everything; called once."""
        ...


_L = TypeVar("_L", bound=LaunchedSandbox)


class AgentInstance(ABC, Generic[_L]):
    """A sandbox with the agent inside. Drivers subclass it and implement the five hooks below."""

    def __init__(self, plan: Plan, ctx: DriverContext) -> None:
        self._plan = plan
        self._ctx = ctx
        self._launched: _L | None = None
        self._session: GuestSession | None = None
        self._exit: InstanceExit | None = None
        self._gone = anyio.Event()
        self._violation = ""
        self._started = False
        self._stopping = False
        self._destroying = anyio.Lock()

    @property
    def ref(self) -> InstanceRef:
        """What names it across a crash."""
        return InstanceRef(self._plan.driver, self._ctx.sandbox_id, self._ctx.owner)

    @property
    def files(self) -> Files:
        """The files inside. Raises SandboxStateError or InstanceLostError."""
        return self._live("files").files

    async def start(self) -> None:
        """Build the walls, start the agent, verify the walls from outside.

        Raises:
            SandboxStateError: It was started before.
            LaunchError: With the reason; nothing is left.
        """
        if self._started or self._exit is not None:
            raise SandboxStateError("the sandbox was started before", details={"call": "start"})
        self._started = True
        try:
            self._launched = launched = await self._launch()
            self._session = session = await self._open(launched)
            await launched.group.join()
            self._verify(launched, session)
            session.launch()
        except BaseException as error:
            said = await self._dying_words() if isinstance(error, BoundaryError) else ""
            await self.destroy()
            if said and isinstance(error, BoundaryError):
                msg = f"the sandbox did not come up: {error.message} {said}"
                raise LaunchError(msg, hint=error.hint, details=error.details) from error
            raise
        self._ctx.tasks.start_soon(self._watch, launched)

    # What a driver says.

    @abstractmethod
    async def _launch(self) -> _L:
        """Build the walls and start the agent. Raises LaunchError; nothing is left then."""

    @abstractmethod
    def _config(self) -> SessionConfig:
        """Return what the agent is told."""

    @abstractmethod
    def _verify(self, launched: _L, session: GuestSession) -> None:
        """Look at the walls from outside, before anything else runs inside. Raises LaunchError if one is missing."""

    @abstractmethod
    def _can_freeze(self) -> bool:
        """Return whether the cgroup freezes everything inside."""

    @abstractmethod
    def _disk(self, launched: _L) -> int | None:
        """Return the bytes in the workspace as seen from outside, or None to ask the agent."""

    async def _freed(self) -> None:
        """Free what the driver holds besides the walls, which are gone by now; perhaps more than once."""

    async def _open(self, launched: _L) -> GuestSession:
        """Return the session with the agent that was just started."""
        return await GuestSession.open(
            self._connect(launched),
            tasks=self._ctx.tasks,
            config=self._config(),
            hooks=self,
            tools=self._tools,
        )

    def _connect(self, launched: _L) -> GuestStream:
        """Return the session's stream."""
        return SocketStream(launched.stream)

    @property
    def _tools(self) -> ToolLink | None:
        """Return the way to host functions, if the policy grants any."""
        return self._ctx.tools if self._plan.spec.policy.tools else None  # control: tool.calls

    # What it offers.

    @property
    def full_name(self) -> str:
        """The name under which it is found on this machine."""
        return full_name(self.ref)

    def _planned(self, control: str) -> bool:
        return any(item.control == control and item.level == "enforced" for item in self._plan.controls)

    async def exec(self, request: ExecRequest) -> Process:
        """Start a program. Raises InvalidRequestError, SandboxStateError or InstanceLostError."""
        return await self._live("exec").exec(request)

    async def connect(self, port: int) -> ByteStream:
        """Open a stream to a TCP port on the sandbox's loopback.

        Raises:
            GuestConnectionError: Nothing listens there.
        """
        return await self._live("connect").connect(port)

    async def usage(self) -> Usage:
        """Return what was used, seen from outside; what that can't tell is asked of the agent."""
        session = self._live("usage")
        launched = self._launched
        group = launched.group.made if launched else None
        if launched is None or group is None:
            return await session.usage()
        seen = self._measured(group)
        disk = self._disk(launched)
        if disk is None or None in {seen.cpu_seconds, seen.memory, seen.memory_peak, seen.processes}:
            reported = await session.usage()
        else:
            reported = Usage(datetime.now(UTC), None, None, None, None, disk)
        return Usage(
            at=datetime.now(UTC),
            cpu=reported.cpu if seen.cpu_seconds is None else timedelta(seconds=seen.cpu_seconds),
            memory=seen.memory if seen.memory is not None else reported.memory,
            memory_peak=seen.memory_peak if seen.memory_peak is not None else reported.memory_peak,
            processes=seen.processes if seen.processes is not None else reported.processes,
            disk=reported.disk,
        )

    def _measured(self, group: Cgroup) -> CgroupUsage:
        """Return what the cgroup counts; a driver leaves out (None) what it can't tell from there."""
        return group.usage()

    async def pause(self) -> None:
        """Freeze everything inside. Raises SandboxStateError where no freezer is."""
        self._live("pause")
        await to_thread.run_sync(self._freezer("pause").freeze)

    async def resume(self) -> None:
        """Let everything inside go on."""
        self._live("resume")
        await to_thread.run_sync(self._freezer("resume").thaw)

    def _freezer(self, call: str) -> Cgroup:
        group = self._launched.group.made if self._launched else None
        if group is None or not self._can_freeze():
            raise SandboxStateError(
                "this machine has no cgroup freezer for this user", hint="jubako doctor", details={"call": call}
            )
        return group

    async def wait(self) -> InstanceExit:
        """Return why it is gone, once it is."""
        await self._gone.wait()
        assert self._exit is not None  # noqa: S101  # set before the event
        return self._exit

    async def stop(self, *, grace: timedelta) -> None:
        """Ask everything inside to end, then end it."""
        if self._session is None or self._exit is not None:
            return
        self._stopping = True
        with anyio.move_on_after(grace.total_seconds() + 1):
            await self._session.shutdown(grace)
        await self._end(InstanceExit("stopped"))

    async def destroy(self) -> None:
        """Remove every trace; idempotent, not to be cancelled."""
        with anyio.CancelScope(shield=True):
            await self._end(InstanceExit("destroyed"))

    # What the session asks of its driver.

    def limit_counters(self) -> Mapping[str, int]:
        """Return how often each limit was run into so far, by control id."""
        group = self._launched.group.made if self._launched else None
        return group.counters() if group is not None else {}

    def on_violation(self, rule: str) -> None:
        """Kill the sandbox: a guest that breaks the protocol is not talked to again."""
        self._violation = rule
        self._ctx.emit(AgentViolated(rule=rule))
        self.kill_instance()

    def kill_instance(self) -> None:
        """Kill everything inside."""
        if self._launched is not None:
            self._launched.kill()

    def _live(self, call: str) -> GuestSession:
        if self._exit is not None:
            if self._exit.code in {"stopped", "destroyed"}:
                msg = f"the sandbox is {self._exit.code}"
                raise SandboxStateError(msg, details={"call": call, "state": self._exit.code})
            raise InstanceLostError(self._exit.message, details={"call": call, "limits": sorted(self._exit.limits)})
        if self._session is None:
            raise SandboxStateError("the sandbox is not started", hint="call start() first", details={"call": call})
        return self._session

    async def _watch(self, launched: _L) -> None:
        """Notice a death that nobody asked for."""
        await launched.ended()
        if self._exit is None and not self._stopping and self._launched is launched:
            with anyio.CancelScope(shield=True):
                await self._end(self._cause())

    def _cause(self) -> InstanceExit:
        counters = self.limit_counters()
        if self._violation:
            return InstanceExit("protocol-violation", f"the guest broke the agent protocol ({self._violation})")
        if counters.get("resource.memory"):
            return InstanceExit(
                "instance-lost",
                "the sandbox ran out of memory and its first process was killed",
                frozenset({"resource.memory"}),
            )
        said = self._last_words()
        return InstanceExit("instance-lost", f"the sandbox's first process ended by itself {said}".rstrip())

    async def _dying_words(self) -> str:
        """Return what the mechanism or the agent said, once they had the time to say it."""
        if self._launched is not None:
            with anyio.move_on_after(_DYING_SECONDS, shield=True):
                await self._launched.ended()
        return self._last_words()

    def _last_words(self) -> str:
        if self._launched is None:
            return ""
        said = self._launched.last_words()
        return f"({said})" if said else ""

    async def _end(self, why: InstanceExit) -> None:
        async with self._destroying:
            if self._exit is None or self._exit.code == "stopped":
                self._exit = why
            if self._session is not None:
                await self._session.aclose()
            launched, self._launched = self._launched, None
            if launched is not None:
                await launched.tear_down()
            await self._freed()
            self._gone.set()
