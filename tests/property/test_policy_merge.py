"""Merging only narrows, against a model of "permits" that shares no code with the merge."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jubako._lib.levels import Enforcement
from jubako.errors import InvalidPolicyError
from jubako.policy import CONTROLS, Policy
from jubako.policy.merge import merge
from jubako.policy.presets import PRESETS, preset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLACES = ("/d", "/d/x", "/d/x/y", "/dx", "/e", "/workspace/in", "/usr/lib")
PROBED = (*PLACES, "/d/other", "/workspace", "/workspace/in/deep", "/usr", "/etc")
SOURCES = ("/s", "/t")
CALLS = ("ptrace", "mbind", "reboot")
NAMES = ("A", "B")
HOSTS = ("one.example", "two.example")
WORDS = ("pii", "eu", "us")
LEVELS = {"enforced": 2, "partial": 1, "optional": 0}
HELD = {Enforcement.ENFORCED: 2, Enforcement.PARTIAL: 1, Enforcement.UNENFORCED: 0}
SOME_CONTROLS = ("fs.proc", "resource.memory", "resource.cpu", "fs.second-wall")
LIMITS = {
    ("files", "workspace_size"): (65536, 10**6, 10**9),
    ("files", "tmp_size"): (65536, 10**7),
    ("resources", "memory"): (2**25, 2**30),
    ("resources", "swap"): (0, 1),
    ("resources", "processes"): (4, 256),
    ("resources", "cpus"): (0.5, 1.0),
    ("resources", "open_files"): (32, 1024),
    ("resources", "inodes"): (64, 100),
    ("resources", "io_bytes_per_second"): (None, 65536, 10**6),
    ("time", "exec"): (1.0, 300.0),
    ("time", "sandbox"): (1.0, 3600.0),
    ("output", "max_bytes"): (1024, 10**6),
}
TOOLS = ("look_up", "send")
BUDGETS = {
    "calls": (1, 100),
    "request_bytes": (64, 4096),
    "response_bytes": (64, 4096),
    "seconds": (0.5, 30.0),
}
Action = tuple[Any, ...]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    data: dict[str, Any] = {"files": {}, "resources": {}, "time": {}, "output": {}}
    for (clause, field), choices in LIMITS.items():
        data[clause][field] = draw(st.sampled_from(choices))
    data["output"]["on_limit"] = draw(st.sampled_from(["truncate", "kill"]))
    mounts = [
        {"source": draw(st.sampled_from(SOURCES)), "target": target, "access": draw(st.sampled_from(["ro", "rw"]))}
        for target in sorted(draw(st.lists(st.sampled_from(PLACES), unique=True, max_size=4)))
    ]
    data["files"] |= {"mounts": mounts, "hide": draw(st.lists(st.sampled_from(PLACES), max_size=2))}
    data["syscalls"] = {"deny": draw(st.lists(st.sampled_from(CALLS), max_size=2))}
    data["environment"] = {"variables": draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["1", "2"])))}
    secret = st.fixed_dictionaries(
        {
            "source": st.sampled_from(["env:A", "file:/a"]),
            "hosts": st.lists(st.sampled_from(HOSTS), min_size=1),
            "place": st.sampled_from(["header:authorization", "query:key"]),
        }
    )
    data["secrets"] = draw(st.dictionaries(st.sampled_from(NAMES), secret))
    data["data"] = {
        "labels": draw(st.lists(st.sampled_from(WORDS), max_size=2)),
        "regions": draw(st.lists(st.sampled_from(WORDS), max_size=2)),
    }
    grant = st.fixed_dictionaries({field: st.sampled_from(choices) for field, choices in BUDGETS.items()})
    data["tools"] = draw(st.dictionaries(st.sampled_from(TOOLS), grant))
    data["observe"] = {
        "activity": draw(st.booleans()),
        "sensitive": draw(st.lists(st.sampled_from(PLACES), max_size=3)),
    }
    data["require"] = {
        control: level
        for control, level in draw(
            st.dictionaries(st.sampled_from(SOME_CONTROLS), st.sampled_from(["partial", "enforced"]))
        ).items()
        if LEVELS[level] >= CONTROLS[control].default.rank
    }
    reasons = st.sampled_from(["because of one thing", "because of another"])
    weaker = st.fixed_dictionaries(
        {
            "kind": st.just("accept-weaker"),
            "control": st.sampled_from(SOME_CONTROLS),
            "accept": st.sampled_from(["partial", "optional", "enforced"]),
            "reason": reasons,
        }
    )
    written = {mount["source"] for mount in mounts if mount["access"] == "rw"}
    data["relaxations"] = [
        *draw(st.lists(weaker, max_size=3)),
        *({"kind": "writable-mount", "source": source, "reason": draw(reasons)} for source in sorted(written)),
    ]
    data["driver_options"] = draw(st.sampled_from([{}, {}, {}, {"bwrap": {"a": 1}}]))
    return Policy.model_validate(data)


def below(place: str, path: str) -> bool:
    parts, others = place.split("/"), path.split("/")
    return others[: len(parts)] == parts


def shown(policy: Policy, path: str) -> tuple[str, str, bool] | None:
    """What stands at ``path``: whose it is, where there, and whether it may be written."""
    if any(below(place, path) for place in policy.files.hide):
        return None
    best = max(
        (mount for mount in policy.files.mounts if below(mount.target, path)),
        key=lambda mount: len(mount.target.split("/")),
        default=None,
    )
    if best is not None:
        return "host", best.source + path[len(best.target) :], best.access == "rw"
    if below(policy.files.workspace, path):
        return "workspace", path, True
    return "root", path, False


def required(policy: Policy, control: str) -> int:
    level = LEVELS[policy.require[control].value] if control in policy.require else CONTROLS[control].default.rank
    accepted = [
        LEVELS[item.accept.value]
        for item in policy.relaxations
        if item.kind == "accept-weaker" and item.control == control
    ]
    return min([level, *accepted])


def shows(policy: Policy, path: str, owner: str, where: str) -> bool:
    place = shown(policy, path)
    return place is not None and place[:2] == (owner, where)


def within(policy: Policy, clause: str, field: str, amount: float) -> bool:
    limit: float | None = getattr(getattr(policy, clause), field)
    return limit is None or amount <= limit


def spends(policy: Policy, name: str, source: str, place: str, host: str) -> bool:
    secret = policy.secrets.get(name)
    return secret is not None and (secret.source, secret.place) == (source, place) and host in secret.hosts


def asks(policy: Policy, name: str, field: str, amount: float) -> bool:
    grant = policy.tools.get(name)
    if grant is None:
        return False
    limit: float = getattr(grant, field)
    return amount <= limit


def opens_unseen(policy: Policy, path: str) -> bool:
    return not policy.observe.activity or not any(below(place, path) for place in policy.observe.sensitive)


RULES: dict[str, Callable[..., bool]] = {
    "read": shows,
    "write": lambda policy, path, owner, where: shown(policy, path) == (owner, where, True),
    "use": within,
    "say-more-than-allowed": lambda policy: policy.output.on_limit == "truncate",
    "call": lambda policy, name: name not in policy.syscalls.deny,
    "see": lambda policy, name, value: policy.environment.variables.get(name) == value,
    "spend": spends,
    "ask-the-host": asks,
    "start-unseen": lambda policy: not policy.observe.activity,
    "open-unseen": opens_unseen,
    "treat-as-unlabelled": lambda policy, label: label not in policy.data.labels,
    "work-in": lambda policy, region: not policy.data.regions or region in policy.data.regions,
    "start-with": lambda policy, control, level: HELD[level] >= required(policy, control),
    "option": lambda policy, driver, key, value: policy.driver_options.get(driver, {}).get(key) == value,
}


def permits(policy: Policy, action: Action) -> bool:
    return RULES[action[0]](policy, *action[1:])


def actions() -> Iterator[Action]:
    hosts = [source + rest for source in SOURCES for rest in ("", *PLACES, "/x", "/y", "/x/y", "/other", "/deep")]
    for path in PROBED:
        for owner, wheres in (("host", hosts), ("workspace", PROBED), ("root", PROBED)):
            for verb, where in itertools.product(("read", "write"), wheres):
                yield verb, path, owner, where
    for (clause, field), choices in LIMITS.items():
        for amount in (*choices, 10**12):
            if amount is not None:
                yield "use", clause, field, amount
    yield ("say-more-than-allowed",)
    yield from (("call", name) for name in CALLS)
    yield from (("see", name, value) for name in NAMES for value in "12")
    yield from (
        ("spend", name, source, place, host)
        for name in NAMES
        for source in ("env:A", "file:/a")
        for place in ("header:authorization", "query:key")
        for host in HOSTS
    )
    for name, (field, choices) in itertools.product(TOOLS, BUDGETS.items()):
        yield from (("ask-the-host", name, field, amount) for amount in (*choices, 10**6))
    yield ("start-unseen",)
    yield from (("open-unseen", path) for path in PROBED)
    for word in WORDS:
        yield "treat-as-unlabelled", word
        yield "work-in", word
    yield from (("start-with", control, level) for control in SOME_CONTROLS for level in Enforcement)
    yield "option", "bwrap", "a", 1


ACTIONS = tuple(actions())


def merged(first: Policy, second: Policy) -> Policy | None:
    try:
        return merge(first, second)
    except InvalidPolicyError:
        return None


@given(policies(), policies())
def test_a_merged_policy_permits_only_what_both_permit(first: Policy, second: Policy) -> None:
    both = merged(first, second)
    assume(both is not None)
    assert both is not None
    for action in ACTIONS:
        if permits(both, action):
            assert permits(first, action), action
            assert permits(second, action), action


@given(policies(), policies())
def test_plain_clauses_permit_all_that_both_permit(first: Policy, second: Policy) -> None:
    """Narrowing is no licence to forbid everything: only places, regions and records may lose more than needed."""
    both = merged(first, second)
    assume(both is not None)
    assert both is not None
    for action in ACTIONS:
        if (
            action[0] not in {"read", "write", "start-with", "option", "open-unseen"}
            and permits(first, action)
            and permits(second, action)
        ):
            assert permits(both, action), action


@given(policies(), policies())
def test_requirements_are_at_least_the_stricter(first: Policy, second: Policy) -> None:
    both = merged(first, second)
    assume(both is not None)
    assert both is not None
    for control in CONTROLS:
        assert both.requirement(control).rank >= max(first.requirement(control).rank, second.requirement(control).rank)
        assert both.requirement(control).rank == required(both, control)


@given(policies())
def test_merging_with_itself_changes_nothing_that_matters(policy: Policy) -> None:
    once = merge(policy, policy)
    assert merge(once, once) == once
    assert merge(once, policy) == once
    for action in ACTIONS:
        assert permits(once, action) == permits(policy, action), action


@given(policies(), policies())
def test_the_order_of_two_does_not_matter(first: Policy, second: Policy) -> None:
    assert merged(first, second) == merged(second, first)


@given(policies(), policies(), policies())
def test_the_grouping_of_three_does_not_matter(first: Policy, second: Policy, third: Policy) -> None:
    left, right = merged(first, second), merged(second, third)
    assert (merged(left, third) if left else None) == (merged(first, right) if right else None)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_merge_into_the_default_without_widening_it(name: str) -> None:
    both = merge(preset("default"), preset(name))
    assert not [action for action in ACTIONS if permits(both, action) and not permits(preset("default"), action)]
