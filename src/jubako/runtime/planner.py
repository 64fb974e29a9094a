"""From a spec to a decision: which driver, which plan, which card; and what this machine can do at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jubako.boundary.card import build_card, require_enforceable
from jubako.boundary.contract import Feature
from jubako.boundary.registry import DriverRegistry
from jubako.errors import (
    ConfigurationError,
    DriverUnavailableError,
    InvalidRequestError,
    JubakoError,
    PolicyNotEnforceableError,
)
from jubako.policy import SandboxSpec

if TYPE_CHECKING:
    from jubako.boundary.card import Card
    from jubako.boundary.contract import BoundaryKind, ControlResult, Driver, Plan, ProbeReport, Reason
    from jubako.boundary.registry import DriverEntry
    from jubako.store import ProbeFindings

__all__ = ["DoctorReport", "DriverHealth", "Planned", "Planner"]

_REMEMBERED: Final = 64
_UNIMPORTABLE: Final = "driver-unimportable"


@dataclass(frozen=True, slots=True)
class Planned:
    """A decision: this driver builds this plan, and the card says how far each control holds."""

    driver: Driver
    report: ProbeReport
    plan: Plan
    card: Card
    digest: str


@dataclass(frozen=True, slots=True)
class DriverHealth:
    """What one driver can do on this machine.

    Attributes:
        controls: How each control of the default policy would be met; empty when it isn't available.
        usable: Whether the default policy can be launched with it.
    """

    name: str
    boundary: BoundaryKind | None
    available: bool
    version: str | None
    features: tuple[str, ...]
    reasons: tuple[Reason, ...]
    controls: tuple[ControlResult, ...]
    usable: bool


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What jubako can do on this machine."""

    jubako: str
    python: str
    kernel: str
    machine: str
    state_dir: str
    drivers: tuple[DriverHealth, ...]

    @property
    def ok(self) -> bool:
        """Whether at least one driver can launch the default policy."""
        return any(driver.usable for driver in self.drivers)


class Planner:
    """Decides, and starts nothing."""

    def __init__(self, registry: DriverRegistry | None = None, findings: ProbeFindings | None = None) -> None:
        self.registry = registry or DriverRegistry()
        self._findings = findings
        self._remembered: dict[tuple[str, str], Planned] = {}

    async def plan(self, spec: SandboxSpec) -> Planned:
        """Return the plan of the best driver that works here; whether it is good enough is not asked yet.

        Raises UnknownDriverError, DriverUnavailableError with the reasons of each driver that was
        tried, or InvalidPolicyError.
        """
        tried: list[tuple[DriverEntry, tuple[Reason, ...]]] = []
        for entry in self.registry.resolve(spec.boundary, spec.driver):
            driver = self.registry.load(entry.name)
            report = await driver.probe()
            if report.available:
                return self._planned(driver, spec, report)
            tried.append((entry, report.reasons))
        raise _unavailable(spec, tried)

    def _planned(self, driver: Driver, spec: SandboxSpec, report: ProbeReport) -> Planned:
        # Plans are pure, so the same spec on the same report needs no second one.
        key = (driver.name, spec.model_dump_json())
        probes = self._findings.of(driver.name, report.version) if self._findings is not None else None
        known = self._remembered.get(key)
        if known is not None and known.report is report and known.card.probes is probes:
            return known
        plan = driver.plan(spec, report)
        card = build_card(plan, report, probes)
        planned = Planned(driver, report, plan, card, card.digest)
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = planned
        return planned

    async def decide(self, spec: SandboxSpec) -> Planned:
        """Return the plan, or raise PolicyNotEnforceableError when a required control would not hold.

        Raises InvalidRequestError when modules are to be preloaded and the driver can't.
        """
        planned = await self.plan(spec)
        if planned.card.refusals:  # the remembered card says the same, without asking every control again
            others = await self._alternatives(planned)
            require_enforceable(planned.plan, alternatives=others, probes=planned.card.probes)
        if spec.preload and Feature.PRELOAD not in planned.plan.features:
            msg = f"driver {planned.plan.driver} can't preload modules on this machine"
            hint = "leave preload out, or choose another boundary: jubako doctor lists their features"
            raise InvalidRequestError(msg, hint=hint, details={"feature": "preload"})
        return planned

    async def _alternatives(self, planned: Planned) -> dict[str, list[str]]:
        """Return what else on this machine could hold the controls that this plan doesn't, by control id."""
        found: dict[str, list[str]] = {item.id: [] for item in planned.card.refusals}
        for entry in self.registry.entries():
            if entry.name == planned.plan.driver:
                continue
            other = await self._other(entry, planned.plan.spec)
            if other is None:
                continue
            kind = other.plan.boundary
            name = f"driver {entry.name}" if kind is planned.plan.boundary else str(kind)
            for control in other.card.controls:
                if control.id in found and control.verdict == "ok" and name not in found[control.id]:
                    found[control.id].append(name)
        return found

    async def _other(self, entry: DriverEntry, spec: SandboxSpec) -> Planned | None:
        """Return the plan of another driver for the same policy; None where it has none here."""
        try:
            driver = self.registry.load(entry.name)
            report = await driver.probe()
            if not report.available:
                return None
            wanted = spec.model_copy(update={"boundary": str(driver.boundary), "driver": entry.name})
            return self._planned(driver, wanted, report)
        except JubakoError:
            return None  # an alternative that can't be asked is none

    async def doctor(self) -> DoctorReport:
        """Return what every installed driver can do here; a driver that can't be imported is listed with the reason."""
        import platform

        from jubako._lib.paths import state_dir
        from jubako._version import __version__

        return DoctorReport(
            jubako=__version__,
            python=platform.python_version(),
            kernel=f"{platform.system()} {platform.release()}",
            machine=platform.machine(),
            state_dir=str(state_dir()),
            drivers=tuple([await self._health(entry) for entry in self.registry.entries()]),
        )

    async def aclose(self) -> None:
        """Free what the drivers keep."""
        for driver in self.registry.loaded():
            await driver.aclose()

    async def _health(self, entry: DriverEntry) -> DriverHealth:
        from jubako.boundary.contract import Reason

        try:
            driver = self.registry.load(entry.name)
        except ConfigurationError as error:
            reason = Reason(_UNIMPORTABLE, error.message, error.hint)
            return DriverHealth(entry.name, entry.boundary, False, None, (), (reason,), (), False)  # noqa: FBT003  # fields in order
        report = await driver.probe()
        controls: tuple[ControlResult, ...] = ()
        usable = False
        if report.available:
            plan = driver.plan(SandboxSpec(boundary=driver.boundary, driver=entry.name), report)
            controls = plan.controls
            try:
                require_enforceable(plan)
            except PolicyNotEnforceableError:
                usable = False
            else:
                usable = True
        return DriverHealth(
            name=entry.name,
            boundary=driver.boundary,
            available=report.available,
            version=report.version,
            features=tuple(sorted(report.features)),
            reasons=report.reasons,
            controls=controls,
            usable=usable,
        )


def _unavailable(spec: SandboxSpec, tried: list[tuple[DriverEntry, tuple[Reason, ...]]]) -> DriverUnavailableError:
    reasons = [
        {"driver": entry.name, "code": item.code, "text": item.text, "remedy": item.remedy}
        for entry, found in tried
        for item in found
    ]
    first = next((item for _, found in tried for item in found), None)
    what = spec.driver or spec.boundary
    msg = f"no driver for {what!r} works on this machine: {first.text if first else 'no reason given'}"
    return DriverUnavailableError(
        msg,
        hint=first.remedy if first and first.remedy else "jubako doctor says more",
        details={"boundary": spec.boundary, "drivers": [entry.name for entry, _ in tried], "reasons": reasons},
    )
