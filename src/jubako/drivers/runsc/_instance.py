"""One sandbox behind gVisor: what is told to the agent, what is looked at from outside, how it ended."""

from __future__ import annotations

import resource
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jubako.boundary.contract import InstanceExit
from jubako.drivers.runsc._image import image_files
from jubako.drivers.runsc._launch import Start, launch
from jubako.drivers.runsc._stream import MovableStream
from jubako.drivers.runsc._verify import verify_sandbox
from jubako.drivers.runsc.trace import TraceSession
from jubako.errors import LaunchError
from jubako.guest import GuestSession, Identity, SocketStream
from jubako.jail.instance import AgentInstance
from jubako.jail.names import sandbox_id
from jubako.linux.cgroup import Ability

if TYPE_CHECKING:
    from pathlib import Path

    from jubako.boundary.contract import DriverContext, Plan
    from jubako.drivers.runsc._probe import RunscMachine
    from jubako.guest import SessionConfig
    from jubako.jail.bubblewrap import Launched
    from jubako.jail.group import LaunchGroup
    from jubako.linux.cgroup import Cgroup, CgroupUsage
    from jubako.policy import Policy

__all__ = ["RunscInstance", "narrowed"]

_SAID: Final = 600
"""Characters of runsc's output that an error carries; a panic's first lines say what happened."""


class RunscInstance(AgentInstance["Launched"]):
    """A sandbox in gVisor. Made by the driver's ``create``; not by callers."""

    def __init__(
        self,
        plan: Plan,
        ctx: DriverContext,
        machine: RunscMachine,
        *,
        agent: bytes,
        config: SessionConfig,
        image: Path | None = None,
    ) -> None:
        super().__init__(plan, ctx)
        self._image = image
        self._machine = machine
        self._agent = agent
        self._told = config
        self._identity = Identity(sandbox_id(self.full_name), env=config.env)
        self._stream: MovableStream | None = None
        self._trace: TraceSession | None = None
        self._unseen = ""

    async def _launch(self) -> Launched:
        return await self._enter(self._image)

    async def _enter(self, image: Path | None, group: LaunchGroup | None = None) -> Launched:
        """Start a container, afresh or from an image."""
        files = image_files(image) if image is not None else ()
        observe = self._plan.spec.policy.observe
        if observe.activity:  # control: observe.activity
            self._trace = TraceSession(self._ctx.state_dir, observe, emit=self._ctx.emit, on_lost=self._on_unseen)
            self._trace.start(self._ctx.tasks)
        start = Start(self._identity.machine_id, files, self._trace, group)
        return await launch(
            self._plan, self._machine, self._ctx.tasks, name=self.full_name, agent=self._agent, start=start
        )

    def _connect(self, launched: Launched) -> MovableStream:
        self._stream = MovableStream(SocketStream(launched.stream))
        return self._stream

    async def _open(self, launched: Launched) -> GuestSession:
        await self._watched(launched)
        if self._image is None:
            return await super()._open(launched)
        return await GuestSession.resume(
            self._connect(launched),
            tasks=self._ctx.tasks,
            config=self._config(),
            hooks=self,
            identity=self._identity,
            tools=self._tools,
        )

    async def _watched(self, launched: Launched) -> None:
        if self._trace is not None:
            await self._trace.connected(launched.ended)

    async def _freed(self) -> None:
        trace, self._trace = self._trace, None
        if trace is not None:
            await trace.aclose()

    def _on_unseen(self, reason: str) -> None:
        """Kill the sandbox: what goes on in it is to be recorded, and is not."""
        self._unseen = reason
        self.kill_instance()

    def _config(self) -> SessionConfig:
        return self._told

    def _verify(self, launched: Launched, session: GuestSession) -> None:
        """Refuse a sandbox whose walls are not seen from outside, whatever runsc said."""
        del session
        wrong = verify_sandbox(launched)
        if wrong:
            raise LaunchError(
                "the sandbox came up without all its walls: " + "; ".join(wrong),
                hint="this is a bug or a tampered runsc; nothing was run",
                details={"walls": list(wrong)},
            )

    def _can_freeze(self) -> bool:
        return self._machine.cgroups is not None and self._machine.cgroups.mechanism(Ability.FREEZE) is not None

    def _disk(self, launched: Launched) -> int | None:
        """Ask the agent: what is in gVisor's memory can't be told apart from outside."""
        del launched
        return None

    def _measured(self, group: Cgroup) -> CgroupUsage:
        """Leave out processes: the group counts the host's threads behind the guest's."""
        return replace(super()._measured(group), processes=None)

    def _cause(self) -> InstanceExit:
        """Return why the sandbox died; a crash of gVisor is named as one, never as a program's result."""
        cause = super()._cause()
        launched = self._launched
        if self._unseen and not self._violation:
            return InstanceExit(
                cause.code, f"the sandbox was killed: what its programs do can't be recorded ({self._unseen})"
            )
        if self._violation or cause.limits or launched is None:
            return cause
        status = launched.monitor.returncode
        return InstanceExit(
            cause.code, f"gVisor (driver runsc) ended with status {status} {self._last_words()}".rstrip()
        )

    def _last_words(self) -> str:
        said = super()._last_words()
        return said if len(said) <= _SAID else f"{said[:_SAID]}...)"


def narrowed(config: SessionConfig, policy: Policy) -> SessionConfig:
    """Return what the agent has to do in gVisor: mounts stand already, Landlock and message queues do not exist."""
    limits = {number: pair for number, pair in config.rlimits.items() if number != resource.RLIMIT_MSGQUEUE}
    # The only limit of processes: the group counts the host's threads.
    most = policy.resources.processes
    limits[resource.RLIMIT_NPROC] = (most, most)  # control: resource.processes
    # Snapshots can be made of every sandbox, and what is restored from them takes a name of its own.
    return replace(config, renewable=True, mounts=(), masks=(), landlock=None, rlimits=limits)
