from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jubako._lib.levels import Requirement
from jubako.boundary.card import (
    Card,
    CardProbes,
    ProbeTally,
    applicable_controls,
    build_card,
    common_controls,
    require_enforceable,
)
from jubako.boundary.card_text import render_text
from jubako.boundary.contract import BoundaryKind, ControlResult, Enforcement, Feature, Plan, ProbeReport
from jubako.errors import PolicyNotEnforceableError
from jubako.policy import CONTROLS, Policy, SandboxSpec

REPORT = ProbeReport(available=True, version="0.8.0", features=frozenset({Feature.TTY}))
WHEN = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


def make_plan(policy: Policy | None = None, /, **levels: Any) -> Plan:
    """A plan that enforces everything, besides what ``levels`` says (dots and dashes as underscores)."""
    policy = policy or Policy()
    common = {result.control: result for result in common_controls(policy)}
    results = []
    for control in applicable_controls(policy):
        given = levels.get(re.sub(r"[.-]", "_", control), Enforcement.ENFORCED)
        if given is None:
            continue
        fallback = ControlResult(
            control, given, f"wall of {control}", "" if given == "enforced" else "no luck", "try harder"
        )
        results.append(common.get(control, fallback))
    payload: dict[str, object] = {"shared": ["the kernel"]}
    return Plan(
        "bwrap", BoundaryKind.PROCESS, SandboxSpec(policy=policy), tuple(results), frozenset({Feature.TTY}), payload
    )


def refused_controls(error: PolicyNotEnforceableError) -> list[dict[str, Any]]:
    controls = error.details["controls"]
    assert isinstance(controls, list)
    return controls


def accept(control: str, level: str) -> Policy:
    relaxation = {"kind": "accept-weaker", "control": control, "accept": level, "reason": "tests on a small machine"}
    return Policy.model_validate({"relaxations": [relaxation]})


def test_a_card_gives_the_three_answers_and_every_control() -> None:
    card = build_card(make_plan(), REPORT)
    assert (card.boundary.kind, card.boundary.driver, card.boundary.version) == (BoundaryKind.PROCESS, "bwrap", "0.8.0")
    assert card.boundary.shared == ("the kernel",)
    assert card.boundary.features == ("tty",)
    assert ("network", "off: nothing but the sandbox's own loopback") in {
        (fact.label, fact.value) for fact in card.policy.summary
    }
    assert (card.lifecycle.ttl, card.lifecycle.exec_timeout) == (3600.0, 300.0)
    assert card.lifecycle.left[0].startswith("nothing inside")
    assert [item.id for item in card.controls] == [
        name for name in CONTROLS if name not in {"secret.broker", "data.labels", "tool.calls", "observe.activity"}
    ]
    assert all(item.verdict == "ok" for item in card.controls)
    assert card.refusals == ()
    require_enforceable(make_plan())


def test_the_digest_is_of_the_whole_card_and_repeatable() -> None:
    card = build_card(make_plan(), REPORT)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", card.digest)
    assert card.digest == build_card(make_plan(), REPORT).digest
    others = [
        build_card(make_plan(net_sockets=Enforcement.PARTIAL), REPORT),
        build_card(make_plan(Policy.model_validate({"time": {"exec": 1}})), REPORT),
        build_card(make_plan(), REPORT, CardProbes(at=WHEN)),
        build_card(make_plan(Policy.model_validate({"environment": {"variables": {"A": "1"}}})), REPORT),
    ]
    assert len({card.digest, *(other.digest for other in others)}) == 5
    document = card.document()
    assert document.pop("digest") == card.digest
    assert Card.model_validate_json(json.dumps(document)) == card


def test_values_of_variables_stay_off_the_card() -> None:
    policy = Policy.model_validate({"environment": {"variables": {"TOKEN": "hidden-value"}}})
    card = build_card(make_plan(policy), REPORT)
    assert "hidden-value" not in json.dumps(card.document()) + render_text(card)
    assert "TOKEN" in render_text(card)


@pytest.mark.parametrize(
    ("control", "level", "refused"),
    [
        ("net.default-deny", Enforcement.PARTIAL, True),
        ("resource.memory", Enforcement.PARTIAL, False),
        ("resource.memory", Enforcement.UNENFORCED, True),
        ("fs.second-wall", Enforcement.UNENFORCED, False),
        ("fs.proc", None, True),
        ("fs.second-wall", None, False),
    ],
)
def test_what_is_required_and_not_held_is_refused(control: str, level: Enforcement | None, *, refused: bool) -> None:
    plan = make_plan(**{re.sub(r"[.-]", "_", control): level})
    assert [item.id for item in build_card(plan, REPORT).refusals] == ([control] if refused else [])
    if not refused:
        require_enforceable(plan)
        return
    with pytest.raises(PolicyNotEnforceableError) as caught:
        require_enforceable(plan, alternatives={control: ["microvm", "gvisor"]})
    (listed,) = refused_controls(caught.value)
    assert listed["control"] == control
    assert listed["driver"] == "bwrap"
    assert listed["level"] == (level.value if level else "unenforced")
    assert listed["required"] == CONTROLS[control].default.value
    assert listed["alternatives"] == ["microvm", "gvisor"]
    assert listed["reason"]
    assert listed["remedy"]
    assert control in caught.value.message
    assert "gvisor, microvm" in caught.value.hint
    assert "accept-weaker" in caught.value.hint


def test_a_relaxation_lets_it_start_and_stands_on_the_card() -> None:
    plan = make_plan(accept("net.sockets", "partial"), net_sockets=Enforcement.PARTIAL)
    require_enforceable(plan)
    card = build_card(plan, REPORT)
    assert card.refusals == ()
    assert [(item.kind, item.subject, item.reason) for item in card.policy.relaxations] == [
        ("accept-weaker", "net.sockets: partial", "tests on a small machine")
    ]
    assert "tests on a small machine" in render_text(card)


def test_a_stricter_requirement_refuses() -> None:
    policy = Policy.model_validate({"require": {"resource.memory": "enforced"}})
    with pytest.raises(PolicyNotEnforceableError, match=r"resource\.memory is partial but must be enforced"):
        require_enforceable(make_plan(policy, resource_memory=Enforcement.PARTIAL))


def test_of_two_results_the_weaker_counts() -> None:
    plan = make_plan()
    weak = ControlResult("fs.proc", Enforcement.PARTIAL, "half a wall")
    for controls in ((*plan.controls, weak), (weak, *plan.controls)):
        card = build_card(Plan("x", plan.boundary, plan.spec, controls), REPORT)
        assert [item.id for item in card.refusals] == ["fs.proc"]


def test_secrets_and_labels_are_refused_until_somebody_enforces_them() -> None:
    secret = {"source": "env:KEY", "hosts": ["api.example.org"]}
    policy = Policy.model_validate({"secrets": {"KEY": secret}, "data": {"labels": ["pii"]}})
    with pytest.raises(PolicyNotEnforceableError) as caught:
        require_enforceable(make_plan(policy))
    assert [item["control"] for item in refused_controls(caught.value)] == ["secret.broker", "data.labels"]
    assert [result.control for result in common_controls(Policy())] == ["resource.output", "time.exec", "time.sandbox"]


def test_probes_stand_on_the_card_and_an_escape_refuses() -> None:
    probes = CardProbes(
        at=WHEN,
        controls={
            "fs.proc": ProbeTally(contained=3),
            "net.sockets": ProbeTally(contained=2, escaped=1),
            "fs.second-wall": ProbeTally(escaped=1),
            "time.exec": ProbeTally(inconclusive=1),
        },
    )
    card = build_card(make_plan(), REPORT, probes)
    assert {item.id: item.probe for item in card.controls if item.probe} == {
        "fs.proc": "contained",
        "net.sockets": "escaped",
        "fs.second-wall": "escaped",
        "time.exec": "inconclusive",
    }
    assert [item.id for item in card.refusals] == ["net.sockets"]
    assert probes.total() == ProbeTally(contained=5, escaped=2, inconclusive=1)
    require_enforceable(make_plan())
    with pytest.raises(PolicyNotEnforceableError, match="a containment probe escaped"):
        require_enforceable(make_plan(), probes=probes)
    text = render_text(card)
    assert "Containment probes of 2026-11-23 12:30 UTC: 5 contained, 2 escaped, 1 inconclusive" in text
    assert "REFUSED: a probe escaped" in text


TEXT = """\
Boundary
  kind          process by bwrap 0.8.0
  still shared  the kernel

Policy
  network       off: nothing but the sandbox's own loopback
  files         root read-only; /workspace writable up to 512 MiB; /tmp and
                /dev/shm up to 256 MiB each
  memory        1 GiB, no swap
"""


def test_the_text_is_for_people() -> None:
    plan = make_plan(resource_memory=Enforcement.PARTIAL, net_sockets=Enforcement.UNENFORCED)
    card = build_card(plan, REPORT)
    text = render_text(card, 80)
    assert text.startswith(TEXT)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "\n\nNetwork\n  ✓ enforced    No network but the sandbox's own loopback [net.default-deny], by\n" in text
    refused = """\
  ✗ unenforced  Only common socket families [net.sockets], by wall of
                net.sockets
                because no luck
                mend: try harder
                REFUSED: the policy requires enforced
"""
    assert refused in text
    assert "  ~ partial     Memory limit, swap included [resource.memory], by wall of" in text
    assert text.endswith(f"\nRefused: 1 required control(s) would not hold: net.sockets\ncard {card.digest}\n")
    assert "\nEvery required control holds.\n" in render_text(build_card(make_plan(), REPORT))


def test_colour_adds_nothing_but_colour() -> None:
    card = build_card(make_plan(net_sockets=Enforcement.UNENFORCED), REPORT)
    coloured = render_text(card, 90, color=True)
    assert "\x1b[31m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render_text(card, 90)


@settings(max_examples=40)
@given(st.text(max_size=300), st.integers(1, 200))
def test_foreign_text_can_not_steer_the_terminal(text: str, width: int) -> None:
    plan = make_plan()
    controls = (*plan.controls, ControlResult("fs.proc", Enforcement.PARTIAL, text, text, text))
    payload = {"shared": [text], "left": (text,)}
    card = build_card(Plan(text, plan.boundary, plan.spec, controls, frozenset(), payload), REPORT)
    rendered = render_text(card, width)
    assert all(line.isprintable() for line in rendered.split("\n"))


def test_requirements_are_ordered() -> None:
    for required in Requirement:
        assert required.accepts(Enforcement.ENFORCED)
    assert not Requirement.ENFORCED.accepts(Enforcement.PARTIAL)
    assert Requirement.PARTIAL.accepts(Enforcement.PARTIAL)
    assert not Requirement.PARTIAL.accepts(Enforcement.UNENFORCED)
    assert Requirement.OPTIONAL.accepts(Enforcement.UNENFORCED)
