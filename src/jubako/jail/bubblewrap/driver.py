"""What drivers that build a bubblewrap jail have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from anyio import to_thread

from jubako.errors import DriverUnavailableError, InstanceLostError
from jubako.guest import bundle_agent
from jubako.jail.bubblewrap.instance import JailedInstance
from jubako.jail.bubblewrap.probe import Machine, probe_machine
from jubako.jail.bubblewrap.session import session_config
from jubako.jail.leftovers import find_orphans, reap_named
from jubako.linux.cgroup import CgroupManager, probe_cgroups
from jubako.linux.seccomp import DEFAULT, compile_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jubako.boundary.contract import BoundaryKind, DriverContext, Instance, InstanceRef, Plan, ProbeReport
    from jubako.guest import SessionConfig
    from jubako.linux.seccomp import Profile

__all__ = ["JailDriver"]


class JailDriver:
    """The driver contract but for ``plan``; subclasses may narrow what ``_probe`` finds and what the agent is told."""

    name: ClassVar[str]
    boundary: ClassVar[BoundaryKind]

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._keeper: CgroupManager | None = None
        self._agent: bytes | None = None
        self._filters: dict[tuple[str, ...], bytes] = {}

    async def probe(self) -> ProbeReport:
        """Say what this machine allows; remembered for the driver's life."""
        return (await self._probed()).report

    async def _probed(self) -> Machine:
        if self._machine is None:
            self._machine = await to_thread.run_sync(self._probe)
        return self._machine

    def _probe(self) -> Machine:
        """Look at the machine. Blocking."""
        return probe_machine()

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Prepare a sandbox; ``start`` builds its walls and its first process at once.

        Raises:
            DriverUnavailableError: This machine can't do it; details list the reasons.
            InvalidPolicyError: The policy names an unknown system call.
        """
        machine = await self._usable()
        return JailedInstance(plan, ctx, machine, agent=await self._bundle(machine), config=self._told(plan, machine))

    async def _usable(self) -> Machine:
        machine = await self._probed()
        if not machine.report.available:
            raise DriverUnavailableError(
                f"the {self.boundary} boundary does not work here: "
                + "; ".join(item.text for item in machine.report.reasons),
                hint="; ".join(item.remedy for item in machine.report.reasons if item.remedy),
                details={"driver": self.name, "reasons": [item.code for item in machine.report.reasons]},
            )
        return machine

    async def _bundle(self, machine: Machine) -> bytes:
        if self._agent is None:
            self._agent = await to_thread.run_sync(bundle_agent, machine.python)
        return self._agent

    def _told(self, plan: Plan, machine: Machine) -> SessionConfig:
        """Return what the agent is told. Raises InvalidPolicyError for an unknown system call."""
        return session_config(plan, machine.cgroups, self._filter(plan))

    def _filter(self, plan: Plan) -> bytes:
        deny = plan.spec.policy.syscalls.deny
        if deny not in self._filters:
            self._filters[deny] = compile_filter(self._profile().narrowed(deny))
        return self._filters[deny]

    def _profile(self) -> Profile:
        """Return the system calls that programs may make."""
        return DEFAULT

    async def attach(self, ref: InstanceRef, ctx: DriverContext) -> Instance:
        """Raise: a sandbox of this driver never outlives the process that made it."""
        del ctx
        msg = f"sandbox {ref.handle} ended with the process that made it"
        raise InstanceLostError(msg, details={"sandbox": ref.handle})

    async def orphans(self, owner: str | None) -> Sequence[InstanceRef]:
        """List the cgroups and processes of sandboxes, of which a killed maker can leave some behind."""
        return await to_thread.run_sync(find_orphans, self.name, owner, await self._groups())

    async def reap(self, ref: InstanceRef) -> None:
        """End what is left of the sandbox and remove its cgroup."""
        await to_thread.run_sync(reap_named, ref, await self._groups())

    async def _groups(self) -> CgroupManager | None:
        """Return where sandboxes have their groups; a probe of the whole mechanism may take seconds."""
        if self._machine is not None:
            return self._machine.groups
        if self._keeper is None:
            support = await to_thread.run_sync(probe_cgroups)
            self._keeper = CgroupManager(support) if support.hierarchies else None
        return self._keeper

    async def aclose(self) -> None:
        """Forget the probe, and remove the cgroup above all sandboxes' if nobody uses it."""
        machine, self._machine = self._machine, None
        keeper, self._keeper = self._keeper, None
        for groups in (machine.groups if machine is not None else None, keeper):
            if groups is not None:
                await to_thread.run_sync(groups.close)
