"""Named policies to start from. A preset is data: `jubako explain` shows it like any other."""

from __future__ import annotations

from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako.errors import InvalidPolicyError
from jubako.policy.model import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PRESETS", "preset"]

PRESETS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "default": "No network, a private workspace, limits that suit one small program.",
        "locked-down": "For code that nobody has read: tight limits on the whole sandbox, two walls around files.",
        "compute": "For long calculations: 8 GiB, 4 CPUs, an hour a program. Nothing else is opened.",
    }
)
"""The names of the presets and what each is for."""

_CLAUSES: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType({
    "default": {},
    "locked-down": {
        "files": {"workspace_size": "64MiB", "tmp_size": "32MiB"},
        "resources": {
            "memory": "256MiB", "processes": 32, "cpus": 0.5, "open_files": 128, "inodes": 10_000,
        },
        "time": {"exec": "30s", "sandbox": "5m"},
        "output": {"max_bytes": "1MiB", "on_limit": "kill"},
        "require": {
            "fs.second-wall": "enforced",
            "resource.memory": "enforced",
            "resource.cpu": "enforced",
            "resource.inodes": "enforced",
        },
    },
    "compute": {
        "files": {"workspace_size": "4GiB", "tmp_size": "1GiB"},
        "resources": {"memory": "8GiB", "processes": 1024, "cpus": 4.0, "open_files": 4096, "inodes": 1_000_000},
        "time": {"exec": "1h", "sandbox": "6h"},
        "output": {"max_bytes": "64MiB"},
    },
})  # fmt: skip


def preset(name: str) -> Policy:
    """Return the preset policy of that name. Raises InvalidPolicyError for an unknown one."""
    clauses = _CLAUSES.get(name)
    if clauses is None:
        near = get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PRESETS)}"
        msg = f"no preset is named {name!r}"
        raise InvalidPolicyError(msg, hint=hint, details={"field": "preset"})
    return Policy.model_validate(clauses)
