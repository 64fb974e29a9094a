"""The table of levels in docs/boundaries.md is what the driver plans on such machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from documents import ROOT

from jubako.boundary.contract import Enforcement, ProbeReport
from jubako.drivers.bwrap import BwrapDriver
from jubako.linux.cgroup import Ability
from jubako.policy import SandboxSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jubako.boundary.contract import ControlResult, Fact

BEGIN, END = "<!-- levels:begin -->", "<!-- levels:end -->"

USER: Final[Mapping[str, Fact]] = {"arch": "x86_64", "user.root": False, "user.drop": False, "landlock.abi": 7}
GROUPS: Final[Mapping[str, Fact]] = {f"cgroup.{ability}": "v2" for ability in Ability}
MACHINES: Final[Mapping[str, Mapping[str, Fact]]] = {
    "root": {**USER, **GROUPS, "user.root": True, "user.drop": True},
    "user, delegated cgroup": {**USER, **GROUPS},
    "user, no cgroup": USER,
    "user, no cgroup, no Landlock": {**USER, "landlock.abi": 0},
}


def controls(facts: Mapping[str, Fact]) -> dict[str, ControlResult]:
    report = ProbeReport(available=True, version="0.8.0", features=frozenset(), facts=facts)
    return {item.control: item for item in BwrapDriver().plan(SandboxSpec(), report).controls}


def expected() -> str:
    plans = {name: controls(facts) for name, facts in MACHINES.items()}
    lines = [f"| control | {' | '.join(MACHINES)} |", f"|---{'|---' * len(MACHINES)}|"]
    best = plans["root"]
    for control, result in best.items():
        cells = []
        for plan in plans.values():
            item = plan[control]
            same = item.level == result.level
            cells.append(f"{item.level}" if same else f"{item.level}: {item.mechanism}".removesuffix(": none"))
        if len(set(cells)) > 1:
            lines.append(f"| `{control}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_table_of_levels_is_the_plan() -> None:
    text = (ROOT / "docs/boundaries.md").read_text()
    found = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert found == expected()


def test_everything_else_is_enforced_everywhere() -> None:
    listed = expected()
    for facts in MACHINES.values():
        weaker = {name for name, item in controls(facts).items() if item.level is not Enforcement.ENFORCED}
        assert [name for name in weaker if f"`{name}`" not in listed] == []
