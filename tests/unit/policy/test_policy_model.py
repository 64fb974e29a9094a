from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from jubako._lib.levels import Requirement
from jubako.errors import InvalidPolicyError
from jubako.policy import CONTROLS, ObservePolicy, Policy, SandboxSpec, ToolGrant, summarize
from jubako.policy.merge import merge
from jubako.policy.presets import PRESETS, preset

REASON = "tests need it for once"


def weaker(control: str, accept: str) -> dict[str, str]:
    return {"kind": "accept-weaker", "control": control, "accept": accept, "reason": REASON}


def mount(target: str, access: str = "ro", source: str = "/srv") -> dict[str, str]:
    return {"source": source, "target": target, "access": access}


def test_the_default_is_closed() -> None:
    policy = Policy()
    assert policy.network.egress == "off"
    assert policy.files.mounts == ()
    assert policy.environment.variables == {}
    assert policy.secrets == {}
    assert policy.relaxations == ()
    assert all(policy.requirement(name) is control.default for name, control in CONTROLS.items())


def test_policies_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Policy().schema_version = 1  # type: ignore[misc]  # the point


def test_requirements_follow_require_then_relaxations() -> None:
    policy = Policy.model_validate(
        {
            "require": {"resource.memory": "enforced", "fs.second-wall": "partial"},
            "relaxations": [
                weaker("net.sockets", "partial"),
                weaker("net.sockets", "optional"),
                weaker("fs.second-wall", "enforced"),
            ],
        }
    )
    assert policy.requirement("resource.memory") is Requirement.ENFORCED
    assert policy.requirement("net.sockets") is Requirement.OPTIONAL
    assert policy.requirement("fs.second-wall") is Requirement.PARTIAL, "a relaxation never asks for more"
    assert policy.requirement("fs.proc") is Requirement.ENFORCED


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        ({"files": {"mounts": [mount("/data"), mount("/data", source="/other")]}}, "two mounts have the target /data"),
        ({"files": {"mounts": [mount("/data/x"), mount("/data")]}}, "/data would cover the mount at /data/x before it"),
        ({"files": {"mounts": [mount("/data", "rw")]}}, "rw without a writable-mount relaxation"),
        ({"files": {"mounts": [mount("/proc/x")]}}, "the sandbox's own"),
        ({"files": {"mounts": [mount("/")]}}, "the sandbox's own"),
        ({"files": {"mounts": [mount("/a/../b")]}}, "not a plain absolute path"),
        ({"files": {"mounts": [mount("/a\0")]}}, "not a plain absolute path"),
        ({"files": {"workspace": "/dev/shm"}}, "the sandbox's own"),
        ({"files": {"workspace": "/a/b", "hide": ["/a"]}}, "would hide the workspace"),
        ({"relaxations": [weaker("fs.prok", "partial")]}, "did you mean fs.proc"),
        ({"relaxations": [weaker("qqq", "partial")]}, "`jubako explain` lists them"),
        ({"relaxations": [{**weaker("fs.proc", "partial"), "reason": "because"}]}, "at least 10 characters"),
        ({"require": {"fs.proc": "partial"}}, "less than the default"),
    ],
)
def test_contradictions_are_refused(clause: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Policy.model_validate(clause)
    assert message in str(caught.value)


def test_what_lies_beside_is_no_cover() -> None:
    policy = Policy.model_validate({"files": {"mounts": [mount("/data"), mount("/data/x"), mount("/dataset")]}})
    assert [item.target for item in policy.files.mounts] == ["/data", "/data/x", "/dataset"]


def test_a_policy_in_words() -> None:
    policy = Policy.model_validate(
        {
            "files": {"mounts": [mount("/data"), mount("/out", "rw")], "hide": ["/opt"]},
            "relaxations": [{"kind": "writable-mount", "source": "/srv", "reason": REASON}],
            "syscalls": {"deny": ["ptrace"]},
            "resources": {"swap": "1MiB", "io_bytes_per_second": "2MiB", "cpus": 2},
            "environment": {"variables": {"B": "value-b", "A": "value-a"}},
            "output": {"on_limit": "kill"},
            "secrets": {"KEY": {"source": "env:X", "hosts": ["a.example", "b.example"]}},
            "data": {"labels": ["pii"]},
            "tools": {"search": {"calls": 1}, "send": {"seconds": "2m"}},
            "observe": {"activity": True, "sensitive": ["/etc", "/home"]},
        }
    )
    assert list(summarize(policy)) == [
        ("network", "off: nothing but the sandbox's own loopback"),
        ("files", "root read-only; /workspace writable up to 512 MiB; /tmp and /dev/shm up to 256 MiB each"),
        ("mount", "/data shows /srv, read-only"),
        ("mount", "/out shows /srv, writable"),
        ("hidden", "/opt"),
        ("system calls", "allowlist without ptrace"),
        ("memory", "1 GiB and 1 MiB of swap"),
        ("limits", "2 CPUs, 256 processes, 1024 open files each, 100000 files made"),
        ("disk", "2 MiB/s"),
        ("output", "10 MiB per program, then killed"),
        ("time", "5 min per program, 1 h in all"),
        ("environment", "A, B"),
        ("host function", "search: 1 call, 30 s each, 64 KiB in, 1 MiB out"),
        ("host function", "send: 100 calls, 2 min each, 64 KiB in, 1 MiB out"),
        ("recorded", "programs, connections, and what is opened in /etc, /home"),
        ("secret", "KEY for a.example, b.example"),
        ("data", "labels pii; regions any"),
    ]


def test_host_functions_are_granted_by_name() -> None:
    policy = preset("locked-down").with_tools("search", "send").with_tools("send", grant=ToolGrant(calls=3))
    assert policy.tools == {"search": ToolGrant(), "send": ToolGrant(calls=3)}
    assert policy.model_copy(update={"tools": {}}) == preset("locked-down")
    assert merge(policy, Policy().with_tools("send")).tools == {"send": ToolGrant(calls=3)}
    with pytest.raises(InvalidPolicyError, match="Send Mail"):
        policy.with_tools("Send Mail")


def test_what_one_of_two_records_is_recorded() -> None:
    loud = Policy.model_validate({"observe": {"activity": True, "sensitive": ["/data/keys"]}})
    quiet = Policy.model_validate({"observe": {"sensitive": ["/data"]}})
    assert merge(loud, quiet).observe == ObservePolicy(activity=True, sensitive=("/data",))


@pytest.mark.parametrize("module", ["", "numpy ", "a..b", ".a", "os;x", "1a", "a-b", "a." * 20 + "a", "é"])
def test_modules_to_preload_have_plain_dotted_names(module: str) -> None:
    with pytest.raises(ValidationError, match="preload"):
        SandboxSpec.model_validate({"preload": [module]})
    assert SandboxSpec(preload=("numpy", "os.path", "_x.y1")).preload[1] == "os.path"


def test_presets() -> None:
    assert preset("default") == Policy()
    assert merge(preset("compute"), preset("locked-down")) == preset("locked-down")
    assert preset("locked-down").requirement("resource.memory") is Requirement.ENFORCED
    assert all(PRESETS.values())
    with pytest.raises(InvalidPolicyError, match="did you mean locked-down"):
        preset("lockeddown")
    with pytest.raises(InvalidPolicyError, match="there are default, locked-down, compute"):
        preset("zzz")


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        ({"files": {"workspace": "/a"}}, {"files": {"workspace": "/b"}}, "files.workspace"),
        ({"driver_options": {"bwrap": {"a": 1}}}, {}, "driver_options"),
        ({"data": {"regions": ["eu"]}}, {"data": {"regions": ["us"]}}, "data.regions"),
        ({"files": {"mounts": [mount("/workspace")]}}, {}, "files.mounts"),
        (
            {"files": {"hide": [f"/a{n}" for n in range(200)]}},
            {"files": {"hide": [f"/b{n}" for n in range(200)]}},
            "files.hide",
        ),
    ],
)
def test_what_can_not_be_merged_is_an_error(first: dict[str, Any], second: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidPolicyError) as caught:
        merge(Policy.model_validate(first), Policy.model_validate(second))
    assert caught.value.details["field"] == field


def test_a_dropped_mount_leaves_its_place_hidden() -> None:
    both = merge(Policy.model_validate({"files": {"mounts": [mount("/data"), mount("/data/x", source="/safe")]}}),
                 Policy.model_validate({"files": {"mounts": [mount("/data")]}}))  # fmt: skip
    assert [item.target for item in both.files.mounts] == ["/data"]
    assert both.files.hide == ("/data/x",)


def test_a_spec_has_defaults() -> None:
    spec = SandboxSpec()
    assert (spec.boundary, spec.driver, spec.template, spec.policy) == ("auto", None, "host", Policy())
    with pytest.raises(ValidationError):
        SandboxSpec(name="-x")
