"""The WebAssembly driver's plan is pure and complete, its options are checked, its files can be reached."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jubako.boundary.card import applicable_controls
from jubako.boundary.contract import Feature, ProbeReport
from jubako.drivers.wasmtime import WasmtimeDriver
from jubako.drivers.wasmtime.options import parse_options
from jubako.drivers.wasmtime.shelf import reachable
from jubako.errors import InvalidPolicyError, LaunchError
from jubako.policy import FilePolicy, Mount, Policy, SandboxSpec, ToolGrant, WritableMount

if TYPE_CHECKING:
    from pydantic import JsonValue

    from jubako.boundary.contract import Fact

GOLDEN = Path(__file__).parent / "golden"
ROOT_FACTS: dict[str, Fact] = {
    "arch": "x86_64",
    "user.root": True,
    "user.drop": True,
    "landlock.abi": 7,
    **{f"cgroup.{name}": "v1" for name in ("memory", "swap", "processes", "cpu", "io", "freeze")},
    "root.links": "bin=usr/bin lib=usr/lib opt=",
    "root.etc": "alternatives ssl/certs",
    "root.proc-masks": "kcore=file",
}
BARE_FACTS: dict[str, Fact] = {
    "arch": "x86_64",
    "user.root": False,
    "user.drop": False,
    "landlock.abi": 0,
    "cgroup.memory.reason": "no group may be made in /sys/fs/cgroup/memory",
    "root.links": "bin=usr/bin",
    "root.etc": "",
}
POLICIES = {
    "default": Policy(),
    "options": Policy(
        files=FilePolicy(
            mounts=(
                Mount(source="/srv/data", target="/data"),
                Mount(source="/srv/out", target="/out", access="rw"),
            )
        ),
        tools={"add": ToolGrant()},
        relaxations=(WritableMount(source="/srv/out", reason="results are collected there"),),
        driver_options={
            "wasmtime": {
                "clock": "2026-01-01T00:00:00Z",
                "random_seed": 7,
                "modules": {"convert": "/opt/convert.wasm"},
            }
        },
    ),
}


def report(facts: dict[str, Fact]) -> ProbeReport:
    return ProbeReport(available=True, version="50", features=frozenset({Feature.TOOLS}), facts=facts)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("machine", ["root", "bare"])
def test_golden(machine: str, policy: str) -> None:
    """A change of what the card says must be seen in review: JUBAKO_UPDATE_GOLDEN=1 rewrites the files."""
    facts = {"root": ROOT_FACTS, "bare": BARE_FACTS}[machine]
    plan = WasmtimeDriver().plan(SandboxSpec(policy=POLICIES[policy]), report(facts))
    seen = {
        "controls": {
            item.control: f"{item.level} | {item.mechanism} | {item.reason} | {item.remedy}".rstrip(" |")
            for item in plan.controls
        },
        "payload": json.loads(json.dumps(plan.payload)),
    }
    path = GOLDEN / f"wasm-{machine}-{policy}.json"
    if os.environ.get("JUBAKO_UPDATE_GOLDEN") == "1":
        path.write_text(json.dumps(seen, indent=2) + "\n")
    assert seen == json.loads(path.read_text())


@pytest.mark.parametrize("policy", POLICIES)
def test_every_control_is_answered_and_the_plan_is_pure(policy: str) -> None:
    spec = SandboxSpec(policy=POLICIES[policy])
    plan = WasmtimeDriver().plan(spec, report(BARE_FACTS))
    assert {item.control for item in plan.controls} == set(applicable_controls(spec.policy))
    assert plan == WasmtimeDriver().plan(spec, report(BARE_FACTS))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"clok": "real"}, "clok"),
        ({"clock": "yesterday"}, "clock"),
        ({"clock": "2026-01-01T00:00:00"}, "clock"),
        ({"clock": "1969-12-31T00:00:00Z"}, "clock"),
        ({"clock": 5}, "clock"),
        ({"random_seed": -1}, "random_seed"),
        ({"random_seed": True}, "random_seed"),
        ({"random_seed": "7"}, "random_seed"),
        ({"modules": ["/x.wasm"]}, "modules"),
        ({"modules": {"python3": "/x.wasm"}}, "modules"),
        ({"modules": {"../x": "/x.wasm"}}, "modules"),
        ({"modules": {"x": "x.wasm"}}, "modules"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, JsonValue], field: str) -> None:
    spec = SandboxSpec(policy=Policy(driver_options={"wasmtime": options}))
    with pytest.raises(InvalidPolicyError, match=field) as caught:
        WasmtimeDriver().plan(spec, report(ROOT_FACTS))
    assert caught.value.details["field"] == f"driver_options.wasmtime.{field}"
    assert caught.value.hint


def test_options_have_safe_defaults() -> None:
    options = parse_options({})
    assert (options.clock, options.random_seed, dict(options.modules)) == (None, None, {})
    assert parse_options({"clock": "1970-01-01T00:00:01+00:00"}).clock == 10**9


@pytest.mark.parametrize("spec", [SandboxSpec(preload=("json",)), SandboxSpec(template="other")])
def test_what_can_not_be_expressed_is_refused(spec: SandboxSpec) -> None:
    with pytest.raises(InvalidPolicyError) as caught:
        WasmtimeDriver().plan(spec, report(ROOT_FACTS))
    assert caught.value.details["field"] in {"preload", "template"}


def test_files_are_shown_from_where_jailed_users_can_go(tmp_path: Path) -> None:
    private, shelf = tmp_path / "private", tmp_path / "shelf"
    private.mkdir(mode=0o700)
    shelf.mkdir()
    file = private / "program"
    file.write_bytes(b"one")
    assert reachable(file, jailed_apart=False, shelf=shelf) == file.resolve()
    copy = reachable(file, jailed_apart=True, shelf=shelf)
    assert (copy.parent, copy.read_bytes()) == (shelf, b"one")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o444
    assert reachable(file, jailed_apart=True, shelf=shelf) == copy
    file.write_bytes(b"other")
    assert reachable(file, jailed_apart=True, shelf=shelf).read_bytes() == b"other"
    assert reachable(Path("/usr/bin/env"), jailed_apart=True, shelf=shelf) == Path("/usr/bin/env").resolve()


def test_a_shelf_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    shelf.chmod(0o777)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(LaunchError, match="can be written by others"):
        reachable(tmp_path / "file", jailed_apart=True, shelf=shelf)
    with pytest.raises(LaunchError, match="can't be shown"):
        reachable(tmp_path / "missing", jailed_apart=True, shelf=shelf)
