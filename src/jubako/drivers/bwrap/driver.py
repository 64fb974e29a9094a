"""The ``bwrap`` driver: Linux namespaces, cgroups, seccomp and Landlock around the guest agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jubako.boundary.card import common_controls
from jubako.boundary.contract import BoundaryKind, Plan
from jubako.jail.bubblewrap import JailDriver, check_expressible, jail_controls, jail_payload

if TYPE_CHECKING:
    from jubako.boundary.contract import ProbeReport
    from jubako.policy import SandboxSpec

__all__ = ["BwrapDriver"]


class BwrapDriver(JailDriver):
    """Runs sandboxes as Linux processes behind bubblewrap; root and ordinary users alike."""

    name: ClassVar[str] = "bwrap"
    boundary: ClassVar[BoundaryKind] = BoundaryKind.PROCESS

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """Say how each control would be met. Raises InvalidPolicyError."""
        check_expressible(spec, self.name)
        return Plan(
            driver=self.name,
            boundary=self.boundary,
            spec=spec,
            controls=(*jail_controls(spec.policy, report.facts), *common_controls(spec.policy, report.features)),
            features=report.features,
            payload=jail_payload(spec.policy, report.facts),
        )
