"""The runsc driver's plan is pure, complete, and claims no limit that the self-test did not see hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jubako.boundary.card import applicable_controls
from jubako.boundary.contract import ProbeReport
from jubako.drivers.runsc import RunscDriver
from jubako.drivers.runsc._bundle import jail_place, limits, runsc_arguments
from jubako.errors import InvalidPolicyError
from jubako.policy import FilePolicy, Mount, Policy, ResourcePolicy, SandboxSpec, WritableMount

if TYPE_CHECKING:
    from jubako.boundary.contract import Fact

GOLDEN = Path(__file__).parent / "golden"

ROOT_FACTS: dict[str, Fact] = {
    "arch": "x86_64",
    "user.root": True,
    "user.drop": True,
    "cgroup.memory": "v1",
    "cgroup.swap": "v1",
    "cgroup.processes": "v1",
    "cgroup.cpu": "v1",
    "cgroup.io": "v1",
    "cgroup.freeze": "v1",
    "root.links": "bin=usr/bin lib=usr/lib opt=",
    "root.etc": "alternatives ssl/certs",
    "runsc.limit.disk": True,
    "runsc.limit.inodes": True,
    "runsc.limit.open-files": True,
    "runsc.limit.processes": True,
}
BARE_FACTS: dict[str, Fact] = {
    "arch": "x86_64",
    "user.root": False,
    "user.drop": False,
    "cgroup.memory.reason": "no group may be made in /sys/fs/cgroup/memory",
    "root.links": "bin=usr/bin",
    "root.etc": "",
    "runsc.limit.disk": True,
}
MOUNTS = (
    Mount(source="/srv/data", target="/data"),
    Mount(source="/srv/out", target="/out", access="rw"),
    Mount(source="/srv/deep", target="/data/deep"),
)
POLICIES = {
    "default": Policy(),
    "mounts": Policy(
        files=FilePolicy(mounts=MOUNTS),
        resources=ResourcePolicy(io_bytes_per_second=1_000_000),
        relaxations=(WritableMount(source="/srv/out", reason="results are collected there"),),
    ),
}


def report(facts: dict[str, Fact]) -> ProbeReport:
    return ProbeReport(available=True, version="1", features=frozenset(), facts=facts)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("machine", ["root", "bare"])
def test_golden(machine: str, policy: str) -> None:
    """A change of what the card says must be seen in review: JUBAKO_UPDATE_GOLDEN=1 rewrites the files."""
    facts = {"root": ROOT_FACTS, "bare": BARE_FACTS}[machine]
    plan = RunscDriver().plan(SandboxSpec(policy=POLICIES[policy]), report(facts))
    seen = {
        "controls": {
            item.control: f"{item.level} | {item.mechanism} | {item.reason} | {item.remedy}".rstrip(" |")
            for item in plan.controls
        },
        "payload": json.loads(json.dumps(plan.payload)),
    }
    path = GOLDEN / f"runsc-{machine}-{policy}.json"
    if os.environ.get("JUBAKO_UPDATE_GOLDEN"):
        path.write_text(json.dumps(seen, indent=2) + "\n")
    assert seen == json.loads(path.read_text())


def test_pure_and_complete() -> None:
    driver = RunscDriver()
    spec = SandboxSpec()
    plan = driver.plan(spec, report(ROOT_FACTS))
    assert plan == driver.plan(spec, report(ROOT_FACTS))
    named = [item.control for item in plan.controls]
    assert sorted(named) == sorted(set(named)), "no control twice"
    assert set(named) == set(applicable_controls(spec.policy))


@pytest.mark.parametrize("limit", ["disk", "open-files", "processes"])
def test_a_limit_that_was_not_seen_to_hold_is_unenforced(limit: str) -> None:
    facts = {**ROOT_FACTS, f"runsc.limit.{limit}": False}
    levels = {item.control: item.level for item in RunscDriver().plan(SandboxSpec(), report(facts)).controls}
    assert levels[f"resource.{limit}"] == "unenforced"


def test_without_a_user_to_drop_to_identity_is_partial() -> None:
    facts = {**ROOT_FACTS, "user.drop": False}
    levels = {item.control: item.level for item in RunscDriver().plan(SandboxSpec(), report(facts)).controls}
    assert levels["process.identity"] == "partial"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (SandboxSpec(template="debian"), "template"),
        (SandboxSpec(policy=Policy(driver_options={"runsc": {"x": 1}})), "driver_options.runsc"),
    ],
)
def test_what_cannot_be_expressed_is_refused(spec: SandboxSpec, field: str) -> None:
    with pytest.raises(InvalidPolicyError) as caught:
        RunscDriver().plan(spec, report(ROOT_FACTS))
    assert caught.value.details["field"] == field


def test_a_hidden_path_is_masked_where_its_mount_is_built() -> None:
    """gVisor gets each mount on its own: a mask below the root would be covered by the mount."""
    policy = POLICIES["mounts"]
    assert jail_place(policy, "/usr/bin/gcc") == "/run/jubako/root/usr/bin/gcc"
    assert jail_place(policy, "/data/secret") == "/run/jubako/mounts/0/secret"
    assert jail_place(policy, "/data/deep/x") == "/run/jubako/mounts/2/x"
    assert jail_place(policy, "/out") == "/run/jubako/mounts/1"


def test_only_known_flags_are_given() -> None:
    arguments = runsc_arguments({"network", "rootless", "overlay2", "unheard-of"}, "systrap")
    assert arguments[1:] == (
        "--root=/run/jubako/state",
        "--platform=systrap",
        "--network=none",
        "--overlay2=none",
        "--rootless=true",
    )


def test_the_group_has_room_for_gvisor_itself() -> None:
    wanted = limits(Policy(resources=ResourcePolicy(memory=1 << 30, processes=10)))
    assert wanted.memory is not None
    assert wanted.memory > 1 << 30
    assert wanted.processes is not None
    assert wanted.processes > 10
    assert wanted.io_bytes_per_second is None
