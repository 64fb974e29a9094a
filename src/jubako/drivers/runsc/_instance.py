"""One sandbox behind gVisor: what is told to the agent, what is looked at from outside, how it ended."""

from __future__ import annotations

import resource
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jubako.boundary.contract import InstanceExit
from jubako.drivers.runsc._launch import launch
from jubako.drivers.runsc._verify import verify_sandbox
from jubako.drivers.runsc.trace import TraceSession
from jubako.errors import LaunchError
from jubako.jail.instance import AgentInstance
from jubako.linux.cgroup import Ability

if TYPE_CHECKING:
    from jubako.boundary.contract import DriverContext, Plan
    from jubako.drivers.runsc._probe import RunscMachine
    from jubako.guest import GuestSession, SessionConfig
    from jubako.jail.bubblewrap import Launched
    from jubako.linux.cgroup import Cgroup, CgroupUsage
    from jubako.policy import Policy

__all__ = ["RunscInstance"]

_SAID: Final = 600
"""Characters of runsc's output that an error carries; a panic's first lines say what happened."""


class RunscInstance(AgentInstance["Launched"]):
    """A sandbox in gVisor. Made by the driver's ``create``; not by callers."""

    def __init__(
        self, plan: Plan, ctx: DriverContext, machine: RunscMachine, *, agent: bytes, config: SessionConfig
    ) -> None:
        super().__init__(plan, ctx)
        self._machine = machine
        self._agent = agent
        self._told = _narrowed(config, plan.spec.policy)
        self._trace: TraceSession | None = None
        self._unseen = ""

    async def _launch(self) -> Launched:
        observe = self._plan.spec.policy.observe
        if observe.activity:  # control: observe.activity
            self._trace = TraceSession(self._ctx.state_dir, observe, emit=self._ctx.emit, on_lost=self._on_unseen)
            self._trace.start(self._ctx.tasks)
        return await launch(
            self._plan, self._machine, self._ctx.tasks, name=self.full_name, agent=self._agent, trace=self._trace
        )

    async def _open(self, launched: Launched) -> GuestSession:
        if self._trace is not None:
            await self._trace.connected(launched.ended)
        return await super()._open(launched)

    async def _freed(self) -> None:
        if self._trace is not None:
            await self._trace.aclose()

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


def _narrowed(config: SessionConfig, policy: Policy) -> SessionConfig:
    """Return what the agent has to do in gVisor: mounts stand already, Landlock and message queues do not exist."""
    limits = {number: pair for number, pair in config.rlimits.items() if number != resource.RLIMIT_MSGQUEUE}
    # The only limit of processes: the group counts the host's threads.
    most = policy.resources.processes
    limits[resource.RLIMIT_NPROC] = (most, most)  # control: resource.processes
    return replace(config, mounts=(), masks=(), landlock=None, rlimits=limits)
