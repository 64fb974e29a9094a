"""The full name of a sandbox: in its cgroup's name, its processes' arguments, across a crash.

``<driver>.<owner>-<id>``: the driver first, so that no driver takes another's sandboxes for its own.
"""

from __future__ import annotations

from jubako.boundary.contract import InstanceRef

__all__ = ["full_name", "ref_of", "sandbox_id"]


def full_name(ref: InstanceRef) -> str:
    """Return the name under which the sandbox of ``ref`` is found on this machine."""
    return f"{ref.driver}.{ref.owner}-{ref.handle}"


def sandbox_id(name: str) -> str:
    """Return the sandbox's id, the last part of its full name."""
    return name.rpartition("-")[2]


def ref_of(name: str) -> InstanceRef | None:
    """Return whom a full name stands for, or None if it isn't one."""
    driver, dot, rest = name.partition(".")
    owner, dash, handle = rest.rpartition("-")
    return InstanceRef(driver, handle, owner) if dot and dash else None
