"""Control groups: one interface over v1, v2 and hybrids of both; each limit is written and read back."""

from __future__ import annotations

from jubako.linux.cgroup.discover import Mount, mounts
from jubako.linux.cgroup.group import Cgroup
from jubako.linux.cgroup.manager import PARENT, CgroupManager, list_groups
from jubako.linux.cgroup.model import (
    Ability,
    CgroupSupport,
    CgroupUsage,
    Hierarchy,
    LimitResult,
    Limits,
    Mechanism,
    Place,
)
from jubako.linux.cgroup.probe import probe_cgroups
from jubako.linux.cgroup.systemd import adopt_scope, systemd_scope_prefix

__all__ = [
    "PARENT",
    "Ability",
    "Cgroup",
    "CgroupManager",
    "CgroupSupport",
    "CgroupUsage",
    "Hierarchy",
    "LimitResult",
    "Limits",
    "Mechanism",
    "Mount",
    "Place",
    "adopt_scope",
    "list_groups",
    "mounts",
    "probe_cgroups",
    "systemd_scope_prefix",
]
