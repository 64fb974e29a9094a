"""The policies under which probes run inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jubako.policy import Policy
from jubako.probes.model import Profile

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OUTPUT_LIMIT", "TOOL_CALLS", "granted_tool", "policy_of"]

OUTPUT_LIMIT: Final = 64 * 1024
"""Output limit of the tight profile, in bytes."""

TOOL_CALLS: Final = 3
"""How often the tools profile lets its only host function be called."""

_DIFFERENCES: Final[dict[Profile, dict[str, dict[str, object]]]] = {
    Profile.DEFAULT: {},
    # So small that a bomb which is harmless to the machine already goes over every limit.
    Profile.TIGHT: {
        "resources": {"memory": "64MiB", "processes": 48, "open_files": 128},
        "files": {"workspace_size": "8MiB", "tmp_size": "8MiB"},
        "output": {"max_bytes": OUTPUT_LIMIT},
    },
    Profile.SLOW: {"resources": {"cpus": 0.05}},
    Profile.FILES: {"resources": {"inodes": 500}},
    Profile.BRIEF: {"time": {"sandbox": 1.0}},
    Profile.TOOLS: {"tools": {"granted": {"calls": TOOL_CALLS, "request_bytes": 1024}}},
}


def policy_of(profile: Profile, granted: Path) -> Policy:
    """Return the profile's policy, with ``granted`` read-only at ``/mnt/granted`` and part of it hidden."""
    document = {name: dict(clauses) for name, clauses in _DIFFERENCES[profile].items()}
    files = document.setdefault("files", {})
    files["mounts"] = ({"source": str(granted), "target": "/mnt/granted"},)
    files["hide"] = ("/mnt/granted/hidden",)
    return Policy.model_validate(document)


def granted_tool(number: int) -> int:
    """Return the number: the one host function of the tools profile."""
    return number
