"""The ``runsc`` driver: gVisor's application kernel in a bubblewrap jail."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jubako.boundary.contract import BoundaryKind
from jubako.drivers.runsc._instance import RunscInstance
from jubako.drivers.runsc._plan import NAME, make_plan
from jubako.drivers.runsc._probe import RunscMachine, probe_runsc
from jubako.jail.bubblewrap import JailDriver

if TYPE_CHECKING:
    from jubako.boundary.contract import DriverContext, Instance, Plan, ProbeReport
    from jubako.jail.bubblewrap import Machine
    from jubako.policy import SandboxSpec

__all__ = ["RunscDriver"]


class RunscDriver(JailDriver):
    """Runs sandboxes on gVisor, as root and as ordinary users; Linux system calls end in the sentry."""

    name: ClassVar[str] = NAME
    boundary: ClassVar[BoundaryKind] = BoundaryKind.GVISOR

    def _probe(self) -> Machine:
        return probe_runsc()

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """Say how each control would be met. Raises InvalidPolicyError."""
        return make_plan(spec, report)

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Prepare a sandbox; ``start`` builds its walls and its first process at once.

        Raises:
            DriverUnavailableError: This machine can't do it; details list the reasons.
            InvalidPolicyError: The policy names an unknown system call.
        """
        machine = await self._usable()
        assert isinstance(machine, RunscMachine)  # noqa: S101  # as _probe makes it
        return RunscInstance(plan, ctx, machine, agent=await self._bundle(machine), config=self._told(plan, machine))
