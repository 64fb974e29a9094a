"""What a cgroup enforces, from the facts of a probe: the same for every driver that puts a sandbox into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from jubako._lib.levels import Enforcement
from jubako.boundary.contract import ControlResult, Fact
from jubako.linux.cgroup import Ability

if TYPE_CHECKING:
    from jubako.linux.cgroup import CgroupSupport
    from jubako.policy import Policy

__all__ = [
    "CGROUP_REMEDY",
    "Facts",
    "cgroup_facts",
    "cgroup_reason",
    "cpu_control",
    "freeze_control",
    "io_control",
    "memory_control",
    "processes_control",
]

Facts = Mapping[str, Fact]

_ENFORCED, _PARTIAL, _UNENFORCED = Enforcement.ENFORCED, Enforcement.PARTIAL, Enforcement.UNENFORCED

CGROUP_REMEDY: Final = (
    "run as root, or give this user a delegated cgroup: a systemd user session "
    "(loginctl enable-linger) or a writable cgroup v2 subtree"
)


def cgroup_facts(support: CgroupSupport) -> dict[str, Fact]:
    """Return ``cgroup.<ability>`` (``v1``, ``v2`` or None) for every ability, and reasons for what is missing."""
    facts: dict[str, Fact] = {}
    for ability in Ability:
        mechanism = support.mechanism(ability)
        facts[f"cgroup.{ability}"] = None if mechanism is None else str(mechanism)
        if mechanism is None and ability in support.reasons:
            facts[f"cgroup.{ability}.reason"] = support.reasons[ability].text
    return facts


def cgroup_reason(facts: Facts, ability: str) -> str:
    """Return why no cgroup limits ``ability``."""
    return str(facts.get(f"cgroup.{ability}.reason") or "no writable cgroup for it")


def memory_control(facts: Facts, mechanism: str, shortfall: str) -> ControlResult:
    """Return how memory is limited: by a cgroup, else by ``mechanism``, which falls short as ``shortfall`` says."""
    version = facts.get("cgroup.memory")
    if version and facts.get("cgroup.swap"):
        return ControlResult("resource.memory", _ENFORCED, f"cgroup {version}, swap included")
    if version:
        return ControlResult(
            "resource.memory",
            _PARTIAL,
            f"cgroup {version}",
            "swap is not counted on this kernel",
            "boot with swapaccount=1",
        )
    reason = f"{shortfall}: {cgroup_reason(facts, 'memory')}"
    return ControlResult("resource.memory", _PARTIAL, mechanism, reason, CGROUP_REMEDY)


def cpu_control(facts: Facts) -> ControlResult:
    """Return how CPU time is limited: by a cgroup's quota, else by seconds per process."""
    version = facts.get("cgroup.cpu")
    if version:
        return ControlResult("resource.cpu", _ENFORCED, f"cgroup {version} quota")
    reason = f"the rate is not limited: {cgroup_reason(facts, 'cpu')}"
    return ControlResult("resource.cpu", _PARTIAL, "CPU seconds per process", reason, CGROUP_REMEDY)


def processes_control(facts: Facts) -> ControlResult:
    """Return how processes are limited where RLIMIT_NPROC counts those of a user namespace of the sandbox's own."""
    version = facts.get("cgroup.processes")
    if version:
        return ControlResult("resource.processes", _ENFORCED, f"cgroup {version}; RLIMIT_NPROC in the user namespace")
    return ControlResult(
        "resource.processes",
        _ENFORCED,
        "RLIMIT_NPROC in the user namespace",
        "it holds, but nothing tells which program ran into it",
        CGROUP_REMEDY,
    )


def freeze_control(facts: Facts) -> ControlResult:
    """Return how a sandbox is frozen."""
    version = facts.get("cgroup.freeze")
    if version:
        return ControlResult("process.freeze", _ENFORCED, f"cgroup {version} freezer")
    return ControlResult("process.freeze", _UNENFORCED, "none", cgroup_reason(facts, "freeze"), CGROUP_REMEDY)


def io_control(policy: Policy, facts: Facts) -> ControlResult:
    """Return how disk bandwidth is limited; only host mounts reach a disk."""
    if not policy.files.mounts:
        return ControlResult("resource.io", _ENFORCED, "nothing writable is on a disk; reads come from the page cache")
    if policy.resources.io_bytes_per_second is None:
        return ControlResult("resource.io", _ENFORCED, "the policy sets no limit")
    version = facts.get("cgroup.io")
    if version:
        return ControlResult(
            "resource.io",
            _PARTIAL,
            f"cgroup {version}",
            "buffered writes are not throttled" if version == "v1" else "only block devices known at launch",
            "use a workspace without host mounts",
        )
    return ControlResult("resource.io", _UNENFORCED, "none", cgroup_reason(facts, "io"), CGROUP_REMEDY)
