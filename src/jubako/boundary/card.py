"""The card of one sandbox: the three answers, every control with how it holds, and what probes found.

The same card is shown before anything runs (``jubako explain``), decides whether a launch is refused,
and goes by its digest into the ledger.
"""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from jubako._lib.jsontext import digest
from jubako._lib.levels import Enforcement, Requirement
from jubako.boundary.contract import BoundaryKind, ControlResult, Feature
from jubako.errors import PolicyNotEnforceableError
from jubako.policy import CONTROLS, AcceptWeaker, Policy, summarize

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from jubako.boundary.contract import Plan, ProbeReport

__all__ = [
    "Card",
    "CardBoundary",
    "CardControl",
    "CardFact",
    "CardLifecycle",
    "CardPolicy",
    "CardProbes",
    "CardRelaxation",
    "ProbeTally",
    "ProbeVerdict",
    "applicable_controls",
    "build_card",
    "common_controls",
    "require_enforceable",
]

ProbeVerdict = Literal["contained", "escaped", "inconclusive"]
_NOTHING_LEFT: Final = "nothing inside: files, processes and memory go with the sandbox; its record and events stay"
_LEVELS: Final = MappingProxyType({Enforcement.UNENFORCED: 0, Enforcement.PARTIAL: 1, Enforcement.ENFORCED: 2})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeTally(_Part):
    """What the containment probes of one control found."""

    contained: int = Field(default=0, ge=0)
    escaped: int = Field(default=0, ge=0)
    inconclusive: int = Field(default=0, ge=0)

    @property
    def verdict(self) -> ProbeVerdict:
        """``escaped`` if a single probe did; ``contained`` if any was proven so; else ``inconclusive``."""
        if self.escaped:
            return "escaped"
        return "contained" if self.contained else "inconclusive"


class CardProbes(_Part):
    """The last run of the containment probes against this driver on this machine."""

    at: datetime = Field(description="When they ran.")
    controls: dict[str, ProbeTally] = Field(default_factory=dict, description="Findings by control id.")

    def total(self) -> ProbeTally:
        """Return the counts over all controls."""
        tallies = tuple(self.controls.values())
        return ProbeTally(
            contained=sum(item.contained for item in tallies),
            escaped=sum(item.escaped for item in tallies),
            inconclusive=sum(item.inconclusive for item in tallies),
        )


class CardControl(_Part):
    """One control: what is required, how far it holds, by what, and why not better."""

    id: str = Field(description="Stable id of the control.")
    title: str = Field(description="What it means, in one line.")
    stops: str = Field(description="What it stops.")
    level: Enforcement = Field(description="How far it holds.")
    required: Requirement = Field(description="The least level that the policy accepts.")
    verdict: Literal["ok", "refused"] = Field(description="refused: no launch under this policy.")
    mechanism: str = Field(default="", description="What enforces it.")
    reason: str = Field(default="", description="Why it does not hold better.")
    remedy: str = Field(default="", description="What a person can do about it.")
    probe: ProbeVerdict | None = Field(default=None, description="What containment probes found, if they ran.")


class CardFact(_Part):
    """One line of a summary."""

    label: str
    value: str


class CardRelaxation(_Part):
    """Something weaker that the policy accepts, with the written reason."""

    kind: str
    subject: str
    reason: str


class CardBoundary(_Part):
    """Answer 1: which wall."""

    kind: BoundaryKind = Field(description="Kind of wall.")
    driver: str = Field(description="The mechanism's driver.")
    version: str | None = Field(description="Version of the mechanism.")
    features: tuple[str, ...] = Field(default=(), description="Optional abilities.")
    shared: tuple[str, ...] = Field(default=(), description="What code inside and the host still share.")


class CardPolicy(_Part):
    """Answer 2: what the code may touch."""

    digest: str = Field(description="Digest of the whole policy.")
    summary: tuple[CardFact, ...] = Field(description="The clauses in words.")
    relaxations: tuple[CardRelaxation, ...] = Field(default=(), description="What is accepted weaker, and why.")


class CardLifecycle(_Part):
    """Answer 3: how long, and what stays."""

    ttl: float = Field(description="Seconds from start to destruction.")
    exec_timeout: float = Field(description="Seconds per program.")
    left: tuple[str, ...] = Field(description="What is left at the next run.")


class Card(_Part):
    """Everything that a person or program must know before code runs."""

    schema_version: Literal[1] = 1
    boundary: CardBoundary
    policy: CardPolicy
    lifecycle: CardLifecycle
    controls: tuple[CardControl, ...] = Field(description="Every control that applies, in catalogue order.")
    probes: CardProbes | None = Field(default=None, description="Containment probes, if they ran.")

    @property
    def digest(self) -> str:
        """``sha256:`` and the digest of the canonical text of the whole card."""
        return digest(self.model_dump(mode="json"))

    @property
    def refusals(self) -> tuple[CardControl, ...]:
        """The controls that keep this sandbox from being started."""
        return tuple(item for item in self.controls if item.verdict == "refused")

    def document(self) -> dict[str, object]:
        """Return the card as JSON-able data, with its digest."""
        return {"digest": self.digest, **self.model_dump(mode="json")}


def applicable_controls(policy: Policy) -> tuple[str, ...]:
    """Return the ids of the controls that a driver must answer for under ``policy``, in catalogue order."""
    absent = {"secret.broker"} if not policy.secrets else set[str]()
    if not (policy.data.labels or policy.data.regions):
        absent.add("data.labels")
    if not policy.tools:
        absent.add("tool.calls")
    if not policy.observe.activity:
        absent.add("observe.activity")
    return tuple(control for control in CONTROLS if control not in absent)


def common_controls(
    policy: Policy, features: Collection[Feature] = (), own: Collection[str] = ()
) -> list[ControlResult]:
    """Return the results for what the host's core does alike for every driver with these features.

    ``own`` are controls that most drivers can't meet and this one answers for itself. Time and output
    limits are held outside the sandbox. Secrets and data labels have no enforcing part
    yet, so a policy with such a clause is refused unless it accepts that in writing.
    """
    on_limit = "the program is killed" if policy.output.on_limit == "kill" else "the rest is dropped"
    results = [
        ControlResult("resource.output", Enforcement.ENFORCED, f"counted on the host as it is read; {on_limit}"),
        ControlResult("time.exec", Enforcement.ENFORCED, "the host's clock; the program's tree is killed"),
        ControlResult("time.sandbox", Enforcement.ENFORCED, "the host's clock; reaped at the next start after a crash"),
    ]
    if policy.tools:
        results.append(_tool_calls(features))
    if policy.observe.activity and "observe.activity" not in own:
        reason = "this driver sees what goes in and out of a sandbox, not what its programs do"
        remedy = "set observe.activity to false, or use the gvisor boundary"
        results.append(_missing("observe.activity", reason, remedy))
    if policy.secrets:
        reason = "no broker holds secrets outside yet: they would not be usable inside"
        results.append(_missing("secret.broker", reason, "remove [secrets] from the policy"))
    if policy.data.labels or policy.data.regions:
        reason = "nothing keeps labelled data within its bounds yet"
        results.append(_missing("data.labels", reason, "remove [data] from the policy"))
    return results


def _tool_calls(features: Collection[Feature]) -> ControlResult:
    if Feature.TOOLS in features:
        return ControlResult(
            "tool.calls", Enforcement.ENFORCED, "allow-list, argument schema, budget and time limit, held on the host"
        )
    reason = "programs have no way to host functions behind this driver"
    return _missing("tool.calls", reason, "remove [tools] from the policy, or use another driver")


def _missing(control: str, reason: str, remedy: str) -> ControlResult:
    return ControlResult(control, Enforcement.UNENFORCED, "none", reason, remedy)


def build_card(plan: Plan, report: ProbeReport, probes: CardProbes | None = None) -> Card:
    """Return the card of ``plan``. Same inputs, same card."""
    policy = plan.spec.policy
    return Card(
        boundary=CardBoundary(
            kind=plan.boundary,
            driver=plan.driver,
            version=report.version,
            features=tuple(sorted(item.value for item in plan.features)),
            shared=_strings(plan.payload.get("shared")),
        ),
        policy=CardPolicy(
            digest=digest(policy.model_dump(mode="json")),
            summary=tuple(CardFact(label=label, value=value) for label, value in summarize(policy)),
            relaxations=tuple(_relaxations(policy)),
        ),
        lifecycle=CardLifecycle(
            ttl=policy.time.sandbox,
            exec_timeout=policy.time.exec,
            left=_strings(plan.payload.get("left")) or (_NOTHING_LEFT,),
        ),
        controls=tuple(_controls(plan, probes)),
        probes=probes,
    )


def require_enforceable(
    plan: Plan, *, alternatives: Mapping[str, Sequence[str]] | None = None, probes: CardProbes | None = None
) -> None:
    """Return if every control of ``plan`` holds as far as its policy requires.

    ``alternatives`` names the other boundaries or drivers here that could enforce a control, by
    control id. Raises PolicyNotEnforceableError otherwise; ``details["controls"]`` lists each control.
    """
    refused = [item for item in _controls(plan, probes) if item.verdict == "refused"]
    if not refused:
        return
    options = alternatives or {}
    listed = [
        {
            "control": item.id,
            "driver": plan.driver,
            "level": item.level.value,
            "required": item.required.value,
            "mechanism": item.mechanism,
            "reason": item.reason,
            "remedy": item.remedy,
            "alternatives": list(options.get(item.id, ())),
        }
        for item in refused
    ]
    lines = [
        f"{item.id} is {item.level} but must be {item.required}: {item.reason or 'no reason given'}" for item in refused
    ]
    msg = f"{plan.driver} can't enforce what the policy requires: " + "; ".join(lines)
    raise PolicyNotEnforceableError(
        msg, hint=_hint(refused, options), details={"driver": plan.driver, "controls": listed}
    )


def _hint(refused: Iterable[CardControl], options: Mapping[str, Sequence[str]]) -> str:
    refused = tuple(refused)
    parts = list(dict.fromkeys(item.remedy for item in refused if item.remedy))
    named = sorted({name for item in refused for name in options.get(item.id, ())})
    able = [name for name in named if all(name in options.get(item.id, ()) for item in refused)]
    if able:
        parts.append(f"use a boundary that could enforce it: {', '.join(able)}")
    parts.append("accept it in the policy with an accept-weaker relaxation and a reason")
    return "; or ".join(parts)


def _strings(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in cast("Sequence[object]", value)) if isinstance(value, list | tuple) else ()


def _controls(plan: Plan, probes: CardProbes | None) -> Iterable[CardControl]:
    """Every control that applies; one that the driver left out counts as unenforced, and of two the weaker."""
    reported: dict[str, ControlResult] = {}
    for result in plan.controls:
        other = reported.get(result.control)
        if other is None or _LEVELS[result.level] < _LEVELS[other.level]:
            reported[result.control] = result
    policy = plan.spec.policy
    wanted = applicable_controls(policy)
    for control in dict.fromkeys((*wanted, *(item for item in CONTROLS if item in reported))):
        result = reported.get(control) or _missing(control, "the driver does not report it", "use another driver")
        tally = probes.controls.get(control) if probes else None
        yield _control(policy, result, tally.verdict if tally else None)


def _control(policy: Policy, result: ControlResult, probe: ProbeVerdict | None) -> CardControl:
    known = CONTROLS[result.control]
    required = policy.requirement(result.control)
    escaped = probe == "escaped" and required is not Requirement.OPTIONAL
    fine = required.accepts(result.level) and not escaped
    return CardControl(
        id=known.id,
        title=known.title,
        stops=known.stops,
        level=result.level,
        required=required,
        verdict="ok" if fine else "refused",
        mechanism=result.mechanism,
        reason=f"a containment probe escaped; {result.reason}".rstrip("; ") if escaped else result.reason,
        remedy=result.remedy,
        probe=probe,
    )


def _relaxations(policy: Policy) -> Iterable[CardRelaxation]:
    for item in policy.relaxations:
        subject = f"{item.control}: {item.accept}" if isinstance(item, AcceptWeaker) else item.source
        yield CardRelaxation(kind=item.kind, subject=subject, reason=item.reason)
