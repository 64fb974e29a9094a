"""The checked-in schemas say what the models say."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from pydantic import ValidationError

from jubako.boundary.card import CardProbes, ProbeTally, build_card, common_controls
from jubako.boundary.contract import BoundaryKind, Plan, ProbeReport
from jubako.events import (
    Event,
    EventData,
    ExecExited,
    ExecStarted,
    LedgerRecovered,
    ProbeCompleted,
    Recorder,
    SandboxCreated,
    SandboxRefused,
    event_fields,
)
from jubako.policy import Policy, SandboxSpec
from jubako.policy.presets import PRESETS, preset

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

ROOT = Path(__file__).resolve().parents[3]


def schema(name: str) -> Validator:
    data = json.loads((ROOT / "schemas" / f"{name}.json").read_text())
    kind = jsonschema.Draft202012Validator
    kind.check_schema(data)
    return kind(data)


def valid(validator: Validator, value: Any) -> bool:
    return bool(validator.is_valid(value))


FULL = """
schema_version = 1
[files]
workspace = "/work"
workspace_size = "1.5 GiB"
tmp_size = 1048576
hide = ["/opt"]
[[files.mounts]]
source = "/srv/data"
target = "/data"
access = "rw"
[network]
egress = "off"
[syscalls]
deny = ["ptrace"]
[resources]
memory = "64MiB"
cpus = 2
io_bytes_per_second = "1MB"
[environment.variables]
LANG = "C.UTF-8"
[time]
exec = "90s"
sandbox = 10
[output]
max_bytes = "2 kB"
on_limit = "kill"
[secrets.KEY]
source = "env:KEY"
hosts = ["api.example.org"]
[data]
labels = ["pii"]
[require]
"resource.memory" = "enforced"
[[relaxations]]
kind = "writable-mount"
source = "/srv/data"
reason = "results are collected there"
[[relaxations]]
kind = "accept-weaker"
control = "fs.proc"
accept = "partial"
reason = "no masking on this kernel"
[driver_options.bwrap]
anything = { goes = [1, "x"] }
"""

WRONG: list[dict[str, Any]] = [
    {},
    {"schema_version": 2},
    {"schema_version": "1"},
    {"schema_version": 1, "unknown": 1},
    {"schema_version": 1, "files": {"workspace_size": "3 parsecs"}},
    {"schema_version": 1, "files": {"workspace_size": 5}},
    {"schema_version": 1, "files": {"workspace": "relative"}},
    {"schema_version": 1, "files": {"hide": ["/a//b"]}},
    {"schema_version": 1, "files": {"mounts": [{"source": "/a"}]}},
    {"schema_version": 1, "resources": {"processes": "3"}},
    {"schema_version": 1, "resources": {"processes": True}},
    {"schema_version": 1, "resources": {"processes": 3}},
    {"schema_version": 1, "resources": {"cpus": 0}},
    {"schema_version": 1, "time": {"exec": 0}},
    {"schema_version": 1, "network": {"egress": "on"}},
    {"schema_version": 1, "environment": {"variables": {"A B": "x"}}},
    {"schema_version": 1, "environment": {"variables": {"A": 1}}},
    {"schema_version": 1, "require": {"nonsense": "enforced"}},
    {"schema_version": 1, "require": {"fs.proc": "maybe"}},
    {"schema_version": 1, "relaxations": [{"control": "fs.proc", "accept": "partial", "reason": "long enough reason"}]},
    {
        "schema_version": 1,
        "relaxations": [{"kind": "accept-weaker", "control": "fs.proc", "accept": "partial", "reason": "x"}],
    },
    {"schema_version": 1, "secrets": {"KEY": {"source": "env:A", "hosts": []}}},
]


def test_generated_files_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts/gen_schemas.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_drift_is_shown(tmp_path: Path) -> None:
    for part in ("schemas", "docs/reference", "scripts"):
        target = tmp_path / part
        target.mkdir(parents=True)
        for file in (ROOT / part).iterdir():
            if file.is_file():
                (target / file.name).write_bytes(file.read_bytes())
    stale = tmp_path / "schemas/policy.v1.json"
    stale.write_text(stale.read_text().replace('"maximum": 4096', '"maximum": 9'))
    command = [sys.executable, str(tmp_path / "scripts/gen_schemas.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--- schemas/policy.v1.json" in done.stdout
    assert '+          "maximum": 4096' in done.stdout
    assert "1 generated file(s) out of date; run scripts/gen_schemas.py" in done.stdout
    assert '"maximum": 9' in stale.read_text(), "a check changes nothing"


def test_a_policy_with_every_clause_fits_schema_and_model() -> None:
    data = tomllib.loads(FULL)
    schema("policy.v1").validate(data)
    policy = Policy.model_validate(data)
    schema("policy.v1").validate(policy.model_dump(mode="json"))
    schema("sandbox-spec.v1").validate(SandboxSpec(policy=policy, labels={"team": "a"}).model_dump(mode="json"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit(name: str) -> None:
    schema("policy.v1").validate(preset(name).model_dump(mode="json"))


@pytest.mark.parametrize("data", WRONG)
def test_what_the_schema_refuses_the_model_refuses_too(data: dict[str, Any]) -> None:
    assert not valid(schema("policy.v1"), data)
    if "schema_version" in data:  # only files must have it
        with pytest.raises(ValidationError):
            Policy.model_validate(data)


@pytest.mark.parametrize(
    "data",
    [
        SandboxCreated(driver="bwrap", boundary="process"),
        SandboxRefused(driver="bwrap", controls=("fs.proc",)),
        ExecStarted(exec="1", argv=("true",), tty=True),
        ExecExited(exec="1", code=None, signal=9, limits=("time.exec",), seconds=0.5),
        ProbeCompleted(driver="bwrap", contained=1, escaped=0, inconclusive=0),
        LedgerRecovered(kind="torn", line=1, size=3),
    ],
)
def test_recorded_events_fit(data: EventData) -> None:
    event = Recorder().record(None, data)
    fields: dict[str, Any] = event_fields(event)
    schema("event.v1").validate(fields)
    assert Event.model_validate_json(json.dumps(fields)) == event
    for name in fields:
        assert not valid(schema("event.v1"), {key: value for key, value in fields.items() if key != name})
    assert not valid(schema("event.v1"), {**fields, "more": 1})
    assert not valid(schema("event.v1"), {**fields, "data": {**fields["data"], "more": 1}})


def test_a_card_fits() -> None:
    policy = Policy.model_validate(tomllib.loads(FULL))
    plan = Plan("bwrap", BoundaryKind.PROCESS, SandboxSpec(policy=policy), tuple(common_controls(policy)))
    probes = CardProbes.model_validate({"at": "2026-11-23T12:00:00Z", "controls": {"fs.proc": ProbeTally(contained=1)}})
    report = ProbeReport(available=True, version=None, features=frozenset())
    for found in (None, probes):
        document: dict[str, Any] = build_card(plan, report, found).document()
        schema("card.v1").validate(document)
        assert not valid(schema("card.v1"), {**document, "digest": "md5:0"})
