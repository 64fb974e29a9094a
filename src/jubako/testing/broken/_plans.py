"""Drivers that break a promise about probing, planning or declaring."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jubako._lib.levels import Enforcement
from jubako.boundary.contract import Feature
from jubako.errors import DriverUnavailableError, InvalidPolicyError
from jubako.testing.broken._delegate import BrokenDriver

if TYPE_CHECKING:
    from jubako.boundary.contract import Plan, ProbeReport
    from jubako.policy import SandboxSpec

__all__ = ["PLAN_DEFECTS"]

_ASKS: Final = frozenset({"asks.bench", "asks.driver", "asks.report"})
"""Checks that look at report or plan by themselves, or at the features that they need."""

_LEVELS: Final = _ASKS | {"policy.resources", "policy.files", "usage"}
"""Checks that look at what a plan says about a control besides."""


class ProbeRaises(BrokenDriver):
    """Raises where its programs are missing."""

    breaks = frozenset({"probe.absent"})
    reach = _ASKS

    async def probe(self) -> ProbeReport:
        """Look for a program first."""
        if shutil.which("sh") is None:
            raise DriverUnavailableError("no programs here")
        return await super().probe()


class ProbeWavers(BrokenDriver):
    """Gives another answer each time."""

    breaks = frozenset({"probe.repeatable"})
    reach = _ASKS

    async def probe(self) -> ProbeReport:
        """Add something random."""
        report = await super().probe()
        return replace(report, facts={**report.facts, "random": secrets.token_hex(4)})


class ProbeUntidy(BrokenDriver):
    """Reports facts that are no plain values."""

    breaks = frozenset({"probe.complete"})
    reach = _ASKS

    async def probe(self) -> ProbeReport:
        """Add a list."""
        report = await super().probe()
        return replace(report, facts={**report.facts, "paths": ["/usr"]})  # type: ignore[dict-item]  # the defect


class DeclaresTooMuch(BrokenDriver):
    """Declares a feature that it doesn't have."""

    breaks = frozenset({"features.snapshot"})
    reach = _ASKS

    async def probe(self) -> ProbeReport:
        """Add a feature."""
        report = await super().probe()
        return replace(report, features=report.features | {Feature.SNAPSHOT})


class DeclaresTooLittle(BrokenDriver):
    """Has a feature that it doesn't declare."""

    breaks = frozenset({"features.tty"})
    reach = _ASKS

    async def probe(self) -> ProbeReport:
        """Leave a feature out."""
        report = await super().probe()
        return replace(report, features=report.features - {Feature.TTY})


class HidesProcesses(BrokenDriver):
    """Lets programs start programs and doesn't declare it."""

    breaks = frozenset({"features.background", "features.processes"})
    reach = _ASKS

    async def probe(self) -> ProbeReport:
        """Leave the feature out."""
        report = await super().probe()
        return replace(report, features=report.features - {Feature.PROCESSES})


class _Planning(BrokenDriver):
    """Changes the plan that is shown; what is launched stays."""

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """Change it."""
        return self.change_plan(super().plan(spec, report))

    def change_plan(self, plan: Plan) -> Plan:
        """Hook: the plan that is shown."""
        return plan


class PlanRandom(_Planning):
    """Puts something random into the plan."""

    breaks = frozenset({"plan.pure"})
    reach = _ASKS

    def change_plan(self, plan: Plan) -> Plan:
        """Add it."""
        return replace(plan, payload={**plan.payload, "random": secrets.token_hex(4)})


class PlanReadsFile(_Planning):
    """Looks at the machine while planning."""

    breaks = frozenset({"plan.pure"})
    reach = _ASKS

    def change_plan(self, plan: Plan) -> Plan:
        """Read a file."""
        Path("/proc/self/comm").read_bytes()
        return plan


class PlanStartsProgram(_Planning):
    """Starts a program while planning."""

    breaks = frozenset({"plan.pure"})
    reach = _ASKS

    def change_plan(self, plan: Plan) -> Plan:
        """Start one."""
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        return plan


class PlanIncomplete(_Planning):
    """Leaves a control out."""

    breaks = frozenset({"plan.complete"})
    reach = _LEVELS

    def change_plan(self, plan: Plan) -> Plan:
        """Drop one."""
        return replace(plan, controls=tuple(item for item in plan.controls if item.control != "fs.devices"))


class PlanDoubled(_Planning):
    """Mentions a control twice."""

    breaks = frozenset({"plan.complete"})
    reach = _LEVELS

    def change_plan(self, plan: Plan) -> Plan:
        """Repeat the first."""
        return replace(plan, controls=(*plan.controls, plan.controls[0]))


class PlanUnexplained(_Planning):
    """Claims enforcement without saying by what."""

    breaks = frozenset({"plan.explained"})
    reach = _LEVELS

    def change_plan(self, plan: Plan) -> Plan:
        """Drop the mechanisms."""
        return replace(plan, controls=tuple(replace(item, mechanism="") for item in plan.controls))


class PlanBoasts(_Planning):
    """Claims to enforce what nothing enforces."""

    breaks = frozenset({"plan.unmet"})
    reach = _LEVELS

    def change_plan(self, plan: Plan) -> Plan:
        """Raise the level."""
        changed = (
            replace(item, level=Enforcement.ENFORCED, mechanism="trust") if item.control == "secret.broker" else item
            for item in plan.controls
        )
        return replace(plan, controls=tuple(changed))


class PlanForgetsSpec(_Planning):
    """Carries another spec than it was made from."""

    breaks = frozenset({"plan.carries"})
    reach = frozenset({"policy.resources"})

    def change_plan(self, plan: Plan) -> Plan:
        """Swap it."""
        if plan.spec.policy.resources.io_bytes_per_second is None:
            return plan
        return replace(plan, spec=plan.spec.model_copy(update={"labels": {"a": "b"}}))


class PlanForgetsFeatures(_Planning):
    """Leaves the features out of its plans."""

    breaks = frozenset({"features.plan"})
    reach = _ASKS

    def change_plan(self, plan: Plan) -> Plan:
        """Drop them."""
        return replace(plan, features=frozenset())


class AcceptsAnyOption(_Planning):
    """Passes over options that it doesn't know."""

    breaks = frozenset({"plan.options"})
    reach = frozenset({"policy.driver_options"})

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """Drop what would be refused."""
        try:
            return super().plan(spec, report)
        except InvalidPolicyError:
            return super().plan(spec.model_copy(update={"policy": type(spec.policy)()}), report)


PLAN_DEFECTS: Final[tuple[type[BrokenDriver], ...]] = (
    ProbeRaises,
    ProbeWavers,
    ProbeUntidy,
    DeclaresTooMuch,
    DeclaresTooLittle,
    HidesProcesses,
    PlanRandom,
    PlanReadsFile,
    PlanStartsProgram,
    PlanIncomplete,
    PlanDoubled,
    PlanUnexplained,
    PlanBoasts,
    PlanForgetsSpec,
    PlanForgetsFeatures,
    AcceptsAnyOption,
)
