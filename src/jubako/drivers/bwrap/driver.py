"""The ``bwrap`` driver: Linux namespaces, cgroups, seccomp and Landlock around the guest agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from anyio import to_thread

from jubako.boundary.contract import BoundaryKind, InstanceRef
from jubako.drivers.bwrap._instance import BwrapInstance
from jubako.drivers.bwrap._leftovers import leftovers, remove_processes
from jubako.drivers.bwrap._plan import make_plan
from jubako.drivers.bwrap._probe import Machine, probe_machine
from jubako.errors import DriverUnavailableError, InstanceLostError
from jubako.guest import bundle_agent
from jubako.linux.seccomp import DEFAULT, compile_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jubako.boundary.contract import DriverContext, Instance, Plan, ProbeReport
    from jubako.policy import SandboxSpec

__all__ = ["BwrapDriver"]


class BwrapDriver:
    """Runs sandboxes as Linux processes behind bubblewrap; root and ordinary users alike."""

    name: ClassVar[str] = "bwrap"
    boundary: ClassVar[BoundaryKind] = BoundaryKind.PROCESS

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._agent: bytes | None = None
        self._filters: dict[tuple[str, ...], bytes] = {}

    async def probe(self) -> ProbeReport:
        """Say what this machine allows; remembered for the driver's life."""
        return (await self._probed()).report

    async def _probed(self) -> Machine:
        if self._machine is None:
            self._machine = await to_thread.run_sync(probe_machine)
        return self._machine

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """Say how each control would be met. Raises InvalidPolicyError."""
        return make_plan(spec, report)

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Prepare a sandbox; ``start`` builds its walls and its first process at once.

        Raises:
            DriverUnavailableError: This machine can't do it; details list the reasons.
            InvalidPolicyError: The policy names an unknown system call.
        """
        machine = await self._probed()
        if not machine.report.available:
            raise DriverUnavailableError(
                "the process boundary does not work here: " + "; ".join(item.text for item in machine.report.reasons),
                hint="; ".join(item.remedy for item in machine.report.reasons if item.remedy),
                details={"driver": self.name, "reasons": [item.code for item in machine.report.reasons]},
            )
        if self._agent is None:
            self._agent = await to_thread.run_sync(bundle_agent, machine.python)
        return BwrapInstance(plan, ctx, machine, agent=self._agent, seccomp=self._filter(plan))

    def _filter(self, plan: Plan) -> bytes:
        deny = plan.spec.policy.syscalls.deny
        if deny not in self._filters:
            self._filters[deny] = compile_filter(DEFAULT.narrowed(deny))
        return self._filters[deny]

    async def attach(self, ref: InstanceRef, ctx: DriverContext) -> Instance:
        """Raise: a sandbox of this driver never outlives the process that made it."""
        del ctx
        msg = f"sandbox {ref.handle} ended with the process that made it"
        raise InstanceLostError(msg, details={"sandbox": ref.handle})

    async def orphans(self, owner: str | None) -> Sequence[InstanceRef]:
        """List the cgroups and processes of sandboxes, of which a killed maker can leave some behind."""
        machine = await self._probed()
        names = set(await to_thread.run_sync(leftovers))
        if machine.groups is not None:
            names |= await to_thread.run_sync(machine.groups.names)
        refs = (InstanceRef(self.name, handle, maker) for maker, _, handle in (name.rpartition("-") for name in names))
        return tuple(ref for ref in refs if owner is None or ref.owner == owner)

    async def reap(self, ref: InstanceRef) -> None:
        """End what is left of the sandbox and remove its cgroup."""
        machine = await self._probed()
        name = f"{ref.owner}-{ref.handle}"
        # The cgroup goes first: a frozen one delivers no signal until it thaws.
        if machine.groups is not None:
            await to_thread.run_sync(machine.groups.reap, name)
        await to_thread.run_sync(remove_processes, name)

    async def aclose(self) -> None:
        """Forget the probe, and remove the cgroup above all sandboxes' if nobody uses it."""
        machine, self._machine = self._machine, None
        if machine is not None and machine.groups is not None:
            await to_thread.run_sync(machine.groups.close)
