"""The bwrap driver's plan is pure, complete, and says what a machine lacks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jubako.boundary.card import applicable_controls
from jubako.boundary.contract import ProbeReport
from jubako.drivers.bwrap import BwrapDriver
from jubako.errors import InvalidPolicyError
from jubako.policy import FilePolicy, Mount, Policy, ResourcePolicy, SandboxSpec, SecretClause, WritableMount

if TYPE_CHECKING:
    from jubako.boundary.contract import Fact

GOLDEN = Path(__file__).parent / "golden"

ROOT_FACTS: dict[str, Fact] = {
    "arch": "x86_64",
    "user.root": True,
    "user.drop": True,
    "landlock.abi": 7,
    "cgroup.memory": "v1",
    "cgroup.swap": "v1",
    "cgroup.processes": "v1",
    "cgroup.cpu": "v1",
    "cgroup.io": "v1",
    "cgroup.freeze": "v1",
    "root.links": "bin=usr/bin lib=usr/lib lib64=usr/lib64 opt=",
    "root.etc": "alternatives ssl/certs",
    "root.proc-masks": "acpi=dir keys=file",
}
BARE_FACTS: dict[str, Fact] = {
    "arch": "x86_64",
    "user.root": False,
    "user.drop": False,
    "landlock.abi": 0,
    "landlock.reason": "the kernel was built without it",
    "cgroup.memory.reason": "no group may be made in /sys/fs/cgroup/memory",
    "root.links": "bin=usr/bin",
    "root.etc": "",
    "root.proc-masks": "",
}
POLICIES = {
    "default": Policy(),
    "mounts": Policy(
        files=FilePolicy(
            mounts=(
                Mount(source="/srv/data", target="/data"),
                Mount(source="/srv/out", target="/out", access="rw"),
            )
        ),
        resources=ResourcePolicy(io_bytes_per_second=1_000_000),
        relaxations=(WritableMount(source="/srv/out", reason="results are collected there"),),
    ),
}


def report(facts: dict[str, Fact]) -> ProbeReport:
    return ProbeReport(available=True, version="0.8.0", features=frozenset(), facts=facts)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("machine", ["root", "bare"])
def test_golden(machine: str, policy: str) -> None:
    """A change of what the card says must be seen in review: JUBAKO_UPDATE_GOLDEN=1 rewrites the files."""
    facts = {"root": ROOT_FACTS, "bare": BARE_FACTS}[machine]
    plan = BwrapDriver().plan(SandboxSpec(policy=POLICIES[policy]), report(facts))
    seen = {
        "controls": {
            item.control: f"{item.level} | {item.mechanism} | {item.reason} | {item.remedy}".rstrip(" |")
            for item in plan.controls
        },
        "payload": json.loads(json.dumps(plan.payload)),
    }
    path = GOLDEN / f"{machine}-{policy}.json"
    if os.environ.get("JUBAKO_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(seen, indent=2) + "\n")
    assert seen == json.loads(path.read_text())


def test_pure_and_complete() -> None:
    driver = BwrapDriver()
    spec = SandboxSpec()
    plan = driver.plan(spec, report(ROOT_FACTS))
    assert plan == driver.plan(spec, report(ROOT_FACTS))
    named = [item.control for item in plan.controls]
    assert sorted(named) == sorted(set(named)), "no control twice"
    assert set(named) == set(applicable_controls(spec.policy))


def test_secrets_and_labels_are_unenforced() -> None:
    policy = Policy(secrets={"KEY": SecretClause(source="env:KEY", hosts=("api.example.com",))})
    plan = BwrapDriver().plan(SandboxSpec(policy=policy), report(ROOT_FACTS))
    assert [item.level for item in plan.controls if item.control == "secret.broker"] == ["unenforced"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (SandboxSpec(template="debian"), "template"),
        (SandboxSpec(policy=Policy(driver_options={"bwrap": {"x": 1}})), "driver_options.bwrap"),
    ],
)
def test_what_cannot_be_expressed_is_refused(spec: SandboxSpec, field: str) -> None:
    with pytest.raises(InvalidPolicyError) as caught:
        BwrapDriver().plan(spec, report(ROOT_FACTS))
    assert caught.value.details["field"] == field
    assert caught.value.hint
