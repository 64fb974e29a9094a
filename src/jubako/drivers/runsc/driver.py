"""The ``runsc`` driver: gVisor's application kernel in a bubblewrap jail."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from anyio import to_thread

from jubako.boundary.contract import BoundaryKind, Feature
from jubako.drivers.runsc._fit import check_fit
from jubako.drivers.runsc._image import digest_of
from jubako.drivers.runsc._instance import RunscInstance, narrowed
from jubako.drivers.runsc._lasting import LastingInstance
from jubako.drivers.runsc._plan import NAME, make_plan
from jubako.drivers.runsc._probe import SNAPSHOT_REMEDY, RunscMachine, probe_runsc
from jubako.errors import SnapshotError, SnapshotIncompatibleError
from jubako.jail.bubblewrap import JailDriver
from jubako.linux.seccomp import DEFAULT

if TYPE_CHECKING:
    from pathlib import Path

    from jubako.boundary.contract import DriverContext, Instance, Plan, ProbeReport, SnapshotRef
    from jubako.jail.bubblewrap import Machine
    from jubako.linux.seccomp import Profile
    from jubako.policy import SandboxSpec

__all__ = ["RunscDriver"]


class RunscDriver(JailDriver):
    """Runs sandboxes on gVisor, as root and as ordinary users; Linux system calls end in the sentry."""

    name: ClassVar[str] = NAME
    boundary: ClassVar[BoundaryKind] = BoundaryKind.GVISOR

    def _probe(self) -> Machine:
        return probe_runsc()

    def _profile(self) -> Profile:
        # The agent renames what is restored, in gVisor's kernel; no program has the capability for it.
        return DEFAULT.widened(("sethostname",))

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """Say how each control would be met. Raises InvalidPolicyError."""
        return make_plan(spec, report)

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Prepare a sandbox; ``start`` builds its walls and its first process at once.

        Raises:
            DriverUnavailableError: This machine can't do it; details list the reasons.
            InvalidPolicyError: The policy names an unknown system call.
        """
        return await self._make(plan, ctx)

    async def restore(self, ref: SnapshotRef, directory: Path, plan: Plan, ctx: DriverContext) -> Instance:
        """Prepare a sandbox that goes on from a snapshot once it is started.

        Raises:
            DriverUnavailableError: This machine can't do it; details list the reasons.
            SnapshotIncompatibleError: The snapshot was made with something else; details say with what.
            SnapshotError: The files are not those that ``ref`` names.
        """
        if ref.driver != self.name:
            msg = f"the snapshot was made by driver {ref.driver}, this one is {self.name}"
            raise SnapshotIncompatibleError(msg, details={"driver": ref.driver})
        instance = await self._make(plan, ctx, directory)
        assert isinstance(instance, LastingInstance)  # noqa: S101  # else it was refused
        check_fit(ref.requires, await to_thread.run_sync(instance.requirements))
        digest = await to_thread.run_sync(digest_of, directory)
        if digest != ref.digest:
            raise SnapshotError(
                "the snapshot's files are not what was written down; nothing was started",
                hint="remove the snapshot and make it again",
                details={"expected": ref.digest, "found": digest},
            )
        return instance

    async def _make(self, plan: Plan, ctx: DriverContext, image: Path | None = None) -> RunscInstance:
        machine = await self._usable()
        assert isinstance(machine, RunscMachine)  # noqa: S101  # as _probe makes it
        config = narrowed(self._told(plan, machine), plan.spec.policy)
        lasting = Feature.SNAPSHOT in machine.report.features
        if image is not None and not lasting:
            raise SnapshotIncompatibleError("snapshots can't be restored on this machine", hint=SNAPSHOT_REMEDY)
        make = LastingInstance if lasting else RunscInstance
        return make(plan, ctx, machine, agent=await self._bundle(machine), config=config, image=image)
