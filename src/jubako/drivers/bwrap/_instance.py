"""One sandbox behind bubblewrap: the agent session, the cgroup, and their common end."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from jubako.boundary.contract import InstanceExit, InstanceRef, Usage
from jubako.drivers.bwrap._launch import launch
from jubako.drivers.bwrap._session import session_config
from jubako.errors import BoundaryError, InstanceLostError, LaunchError, SandboxStateError
from jubako.events import AgentViolated
from jubako.guest import GuestSession, SocketStream
from jubako.linux.cgroup import Ability
from jubako.linux.verify import Expected, verify_walls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import ByteStream

    from jubako.boundary.contract import DriverContext, ExecRequest, Files, Plan, Process
    from jubako.drivers.bwrap._launch import Launched
    from jubako.drivers.bwrap._probe import Machine
    from jubako.guest import AgentHello
    from jubako.linux.cgroup import Cgroup

__all__ = ["BwrapInstance"]

_DYING_SECONDS: Final = 0.5
_NAMESPACES: Final = ("ipc", "mnt", "net", "pid", "user", "uts")
"""The cgroup namespace is only a view; kernels without one are fine."""


class BwrapInstance:
    """A sandbox made by the driver. Made by ``BwrapDriver.create``; not by callers."""

    def __init__(self, plan: Plan, ctx: DriverContext, machine: Machine, *, agent: bytes, seccomp: bytes) -> None:
        self._plan = plan
        self._ctx = ctx
        self._machine = machine
        self._agent = agent
        self._seccomp = seccomp
        self._launched: Launched | None = None
        self._session: GuestSession | None = None
        self._exit: InstanceExit | None = None
        self._gone = anyio.Event()
        self._violation = ""
        self._started = False
        self._stopping = False
        self._destroying = anyio.Lock()

    @property
    def ref(self) -> InstanceRef:
        return InstanceRef(self._plan.driver, self._ctx.sandbox_id, self._ctx.owner)

    @property
    def files(self) -> Files:
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
            launched = await launch(
                self._plan,
                self._machine,
                self._ctx.tasks,
                name=f"{self._ctx.owner}-{self._ctx.sandbox_id}",
                agent=self._agent,
            )
            self._launched = launched
            self._session = await GuestSession.open(
                SocketStream(launched.stream),
                tasks=self._ctx.tasks,
                config=session_config(self._plan, self._machine.cgroups, self._seccomp),
                hooks=self,
            )
            await launched.group.join()
            self._verify(launched)
        except BaseException as error:
            said = await self._dying_words() if isinstance(error, BoundaryError) else ""
            await self.destroy()
            if said and isinstance(error, BoundaryError):
                msg = f"the sandbox did not come up: {error.message} {said}"
                raise LaunchError(msg, hint=error.hint, details=error.details) from error
            raise
        self._ctx.tasks.start_soon(self._watch, launched)

    def _can_freeze(self) -> bool:
        return self._machine.cgroups is not None and self._machine.cgroups.mechanism(Ability.FREEZE) is not None

    def _verify(self, launched: Launched) -> None:
        """Refuse a sandbox whose walls are not seen from outside, whatever bubblewrap said."""
        report = verify_walls(launched.pid, Expected(namespaces=_NAMESPACES))
        if not report.sound:
            wrong = [f"{item.control}: {item.subject} is {item.seen}" for item in report.mismatches]
            raise LaunchError(
                "the sandbox came up without all its walls: " + "; ".join(wrong),
                hint="this is a bug or a tampered bubblewrap; nothing was run",
                details={"walls": wrong},
            )
        hello = self._hello()
        if self._planned("fs.second-wall") and not hello.landlock:
            raise LaunchError(
                "the plan promised Landlock, the sandbox came up without it",
                details={"control": "fs.second-wall"},
            )

    def _planned(self, control: str) -> bool:
        return any(item.control == control and item.level == "enforced" for item in self._plan.controls)

    def _hello(self) -> AgentHello:
        return self._live("start").hello

    async def exec(self, request: ExecRequest) -> Process:
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
        group = launched.cgroup if launched else None
        if launched is None or group is None:
            return await session.usage()
        seen = group.usage()
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

    def _disk(self, launched: Launched) -> int | None:
        """Return the bytes in the workspace, or None where the sandbox's root may not be looked into.

        The path can't lead elsewhere: it is a mount point below a read-only root.
        """
        try:
            space = os.statvfs(f"/proc/{launched.pid}/root{self._plan.spec.policy.files.workspace}")
        except OSError:
            return None
        return (space.f_blocks - space.f_bfree) * space.f_frsize

    async def pause(self) -> None:
        """Freeze everything inside. Raises SandboxStateError where no freezer is."""
        self._live("pause")
        await to_thread.run_sync(self._freezer("pause").freeze)

    async def resume(self) -> None:
        """Let everything inside go on."""
        self._live("resume")
        await to_thread.run_sync(self._freezer("resume").thaw)

    def _freezer(self, call: str) -> Cgroup:
        group = self._launched.cgroup if self._launched else None
        if group is None or not self._can_freeze():
            raise SandboxStateError(
                "this machine has no cgroup freezer for this user", hint="jubako doctor", details={"call": call}
            )
        return group

    async def wait(self) -> InstanceExit:
        await self._gone.wait()
        assert self._exit is not None  # noqa: S101  # set before the event
        return self._exit

    async def stop(self, *, grace: timedelta) -> None:
        if self._session is None or self._exit is not None:
            return
        self._stopping = True
        with anyio.move_on_after(grace.total_seconds() + 1):
            await self._session.shutdown(grace)
        await self._end(InstanceExit("stopped"))

    async def destroy(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._end(InstanceExit("destroyed"))

    # What the session asks of its driver.

    def limit_counters(self) -> Mapping[str, int]:
        """Return how often each limit was run into so far, by control id."""
        group = self._launched.cgroup if self._launched else None
        return group.counters() if group is not None else {}

    def on_violation(self, rule: str) -> None:
        """Kill the sandbox: a guest that breaks the protocol is not talked to again."""
        self._violation = rule
        self._ctx.emit(AgentViolated(rule=rule))
        self.kill_instance()

    def kill_instance(self) -> None:
        """Kill pid 1, and with it the whole pid namespace."""
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

    async def _watch(self, launched: Launched) -> None:
        """Notice a death that nobody asked for."""
        await launched.monitor.wait()
        if self._exit is None and not self._stopping:
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
        """Return what bubblewrap or the agent said, once they had the time to say it."""
        if self._launched is not None:
            with anyio.move_on_after(_DYING_SECONDS, shield=True):
                await self._launched.monitor.wait()
        return self._last_words()

    def _last_words(self) -> str:
        if self._launched is None:
            return ""
        said = self._launched.monitor.stderr_text()
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
            self._gone.set()
