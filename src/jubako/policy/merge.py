"""Merging two policies: the result permits nothing that either of them forbids.

Clause by clause: limits take the smaller, mounts and variables only what both have alike, hidden
paths and denied calls both lists, required levels the stricter, relaxations only what both accept.
Host functions stay if both grant them, with the smaller budgets; what one of them records is recorded.
A mount that only one of them has is not merely dropped: its place is hidden, because the other
policy shows something else there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from jubako.errors import InvalidPolicyError
from jubako.policy.controls import CONTROLS
from jubako.policy.load import invalid_policy
from jubako.policy.model import (
    AcceptWeaker,
    DataPolicy,
    FilePolicy,
    Mount,
    ObservePolicy,
    OutputPolicy,
    Policy,
    Relaxation,
    ResourcePolicy,
    SecretClause,
    ToolGrant,
    WritableMount,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jubako._lib.levels import Requirement

__all__ = ["merge"]

_Value = TypeVar("_Value", int, float)


def merge(first: Policy, second: Policy) -> Policy:
    """Return the policy that permits what both permit, and no more.

    Commutative and associative; merging a policy with itself changes at most its order. Raises
    InvalidPolicyError where the two can't both be kept: different workspaces or driver options, no
    common region, or too many entries together.
    """
    if first.driver_options != second.driver_options:
        raise _conflict("driver_options", "can't be compared, so they must be equal")
    try:
        # As plain data, so that an error names the field with its whole path.
        return Policy.model_validate(
            {
                "files": _files(first.files, second.files),
                "syscalls": {"deny": _union(first.syscalls.deny, second.syscalls.deny)},
                "resources": _resources(first.resources, second.resources),
                "environment": {"variables": _variables(first, second)},
                "time": {
                    "exec": min(first.time.exec, second.time.exec),
                    "sandbox": min(first.time.sandbox, second.time.sandbox),
                },
                "output": _output(first.output, second.output),
                "secrets": _secrets(first.secrets, second.secrets),
                "data": _data(first.data, second.data),
                "tools": _tools(first.tools, second.tools),
                "observe": _observe(first.observe, second.observe),
                "require": _require(first.require, second.require),
                "relaxations": _relaxations(first, second),
                "driver_options": first.driver_options,
            }
        )
    except ValidationError as error:
        raise invalid_policy(error, "merged policy") from error


def _conflict(field: str, text: str) -> InvalidPolicyError:
    return InvalidPolicyError(f"policies can't be merged: {field}: {text}", details={"field": field})


def _union(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*first, *second}))


def _least(first: _Value | None, second: _Value | None) -> _Value | None:
    """The smaller limit; None is no limit."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


def _covers(place: str, path: str) -> bool:
    return path == place or path.startswith(f"{place}/")


def _visible(files: FilePolicy) -> dict[tuple[str, str], Mount]:
    """The mounts that show: what lies in a hidden place has no effect."""
    return {
        (mount.source, mount.target): mount
        for mount in files.mounts
        if not any(_covers(place, mount.target) for place in files.hide)
    }


def _files(first: FilePolicy, second: FilePolicy) -> dict[str, object]:
    if first.workspace != second.workspace:
        raise _conflict("files.workspace", f"{first.workspace} and {second.workspace} differ")
    ours, theirs = _visible(first), _visible(second)
    kept = {key: mount if mount.access == "ro" else theirs[key] for key, mount in ours.items() if key in theirs}
    dropped = {target for _, target in ours.keys() ^ theirs.keys()}
    hide = _outermost({*first.hide, *second.hide, *dropped})
    if any(_covers(place, first.workspace) for place in hide):
        raise _conflict("files.mounts", f"only one of them shows a host directory at {first.workspace}")
    return {
        "workspace": first.workspace,
        "workspace_size": min(first.workspace_size, second.workspace_size),
        "tmp_size": min(first.tmp_size, second.tmp_size),
        "mounts": tuple(
            mount
            for (_, target), mount in sorted(kept.items(), key=lambda item: item[1].target)
            if not any(_covers(place, target) for place in hide)
        ),
        "hide": hide,
    }


def _outermost(paths: set[str]) -> tuple[str, ...]:
    """Leave out what lies below another."""
    kept: list[str] = []
    for path in sorted(paths, key=lambda item: (item.count("/"), item)):
        if not any(_covers(place, path) for place in kept):
            kept.append(path)
    return tuple(sorted(kept))


def _resources(first: ResourcePolicy, second: ResourcePolicy) -> dict[str, object]:
    return {
        "memory": min(first.memory, second.memory),
        "swap": min(first.swap, second.swap),
        "processes": min(first.processes, second.processes),
        "cpus": min(first.cpus, second.cpus),
        "open_files": min(first.open_files, second.open_files),
        "inodes": min(first.inodes, second.inodes),
        "io_bytes_per_second": _least(first.io_bytes_per_second, second.io_bytes_per_second),
    }


def _variables(first: Policy, second: Policy) -> dict[str, str]:
    theirs = second.environment.variables
    return {name: value for name, value in sorted(first.environment.variables.items()) if theirs.get(name) == value}


def _output(first: OutputPolicy, second: OutputPolicy) -> dict[str, object]:
    kill = "kill" in {first.on_limit, second.on_limit}
    return {"max_bytes": min(first.max_bytes, second.max_bytes), "on_limit": "kill" if kill else "truncate"}


def _secrets(first: dict[str, SecretClause], second: dict[str, SecretClause]) -> dict[str, SecretClause]:
    """A secret stays if both name the same source and place, towards the hosts that both allow."""
    kept: dict[str, SecretClause] = {}
    for name, clause in sorted(first.items()):
        other = second.get(name)
        if other is None or (other.source, other.place) != (clause.source, clause.place):
            continue
        hosts = tuple(sorted({*clause.hosts} & {*other.hosts}))
        if hosts:
            kept[name] = SecretClause(source=clause.source, hosts=hosts, place=clause.place)
    return kept


def _data(first: DataPolicy, second: DataPolicy) -> dict[str, object]:
    """All labels of both; regions allowed by both, where stating none means any."""
    regions = {*first.regions} & {*second.regions} if first.regions and second.regions else None
    if regions is not None and not regions:
        raise _conflict("data.regions", "no region is allowed by both")
    stated = regions if regions is not None else {*first.regions, *second.regions}
    return {"labels": _union(first.labels, second.labels), "regions": tuple(sorted(stated))}


def _tools(first: dict[str, ToolGrant], second: dict[str, ToolGrant]) -> dict[str, dict[str, float]]:
    """A host function stays if both grant it, with the smaller of each budget."""
    kept: dict[str, dict[str, float]] = {}
    for name in sorted(first.keys() & second.keys()):
        ours, theirs = first[name], second[name]
        kept[name] = {
            "calls": min(ours.calls, theirs.calls),
            "request_bytes": min(ours.request_bytes, theirs.request_bytes),
            "response_bytes": min(ours.response_bytes, theirs.response_bytes),
            "seconds": min(ours.seconds, theirs.seconds),
        }
    return kept


def _observe(first: ObservePolicy, second: ObservePolicy) -> dict[str, object]:
    return {
        "activity": first.activity or second.activity,
        "sensitive": _outermost({*first.sensitive, *second.sensitive}),
    }


def _require(first: dict[str, Requirement], second: dict[str, Requirement]) -> dict[str, Requirement]:
    return {
        control: max((wanted[control] for wanted in (first, second) if control in wanted), key=_rank)
        for control in CONTROLS
        if control in first or control in second
    }


def _rank(wanted: Requirement) -> int:
    return wanted.rank


def _accepted(policy: Policy) -> dict[str, AcceptWeaker]:
    """The relaxation in force for each control: the weakest level, as ``Policy.requirement`` has it."""
    found: dict[str, AcceptWeaker] = {}
    for item in policy.relaxations:
        if isinstance(item, AcceptWeaker):
            other = found.get(item.control)
            if other is None or (item.accept.rank, item.reason) < (other.accept.rank, other.reason):
                found[item.control] = item
    return found


def _writable(policy: Policy) -> dict[str, WritableMount]:
    found: dict[str, WritableMount] = {}
    for item in policy.relaxations:
        if isinstance(item, WritableMount):
            other = found.get(item.source)
            found[item.source] = item if other is None or item.reason < other.reason else other
    return found


def _relaxations(first: Policy, second: Policy) -> tuple[Relaxation, ...]:
    """What both accept, at the stricter level and with the reason that goes with it."""
    ours, theirs = _accepted(first), _accepted(second)
    weaker = (
        # The order among equals is by text, so that the result does not depend on who comes first.
        max(ours[control], theirs[control], key=lambda item: (item.accept.rank, item.reason))
        for control in CONTROLS
        if control in ours and control in theirs
    )
    mine, yours = _writable(first), _writable(second)
    sources = sorted(mine.keys() & yours.keys())
    return (*weaker, *(max(mine[source], yours[source], key=lambda item: item.reason) for source in sources))
