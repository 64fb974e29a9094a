"""What the agent is told about its sandbox: environment, limits that it sets on itself, the last walls."""

from __future__ import annotations

import math
import resource
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, cast

from jubako.guest import LandlockConfig, LauncherConfig, MaskedPath, PrivateMount, SessionConfig, preload_launcher
from jubako.jail.bubblewrap.layout import LIBRARY, PATH
from jubako.linux.cgroup import Ability

if TYPE_CHECKING:
    from jubako.boundary.contract import Plan
    from jubako.linux.cgroup import CgroupSupport
    from jubako.policy import Policy

__all__ = ["session_config"]

_Masks = tuple[tuple[str, bool], ...]

_SPARE_PROCESSES: Final = 64
"""Room of RLIMIT_NPROC over the cgroup's limit, so that the cgroup's counter sees the hits first."""
_MINIMUM_SPACE: Final = 512 * 1024 * 1024
"""Interpreters reserve far more address space than they use; below this many nothing starts."""


def session_config(plan: Plan, groups: CgroupSupport | None, seccomp: bytes) -> SessionConfig:
    """Return the agent's configuration for ``plan`` on a machine with ``groups``."""
    policy = plan.spec.policy
    wall = any(item.control == "fs.second-wall" and item.level == "enforced" for item in plan.controls)
    return SessionConfig(
        workspace=PurePosixPath(policy.files.workspace),
        env=_environment(policy),
        path=PATH,
        user="user",
        rlimits=_rlimits(policy, groups),
        landlock=_landlock(policy) if wall else None,
        mounts=_mounts(policy),
        masks=tuple(MaskedPath(path, directory) for path, directory in cast("_Masks", plan.payload["masks"])),
        seccomp=seccomp,
        launcher=_launcher(plan),
        on_limit=policy.output.on_limit,
    )


def _launcher(plan: Plan) -> LauncherConfig | None:
    """Return the interpreter that imports what the spec wants preloaded, once."""
    return preload_launcher(plan.spec.preload) if plan.spec.preload else None


def _environment(policy: Policy) -> dict[str, str]:
    """Return what every program sees, besides PATH."""
    variables = policy.environment.variables
    if policy.tools:
        paths = (LIBRARY, variables.get("PYTHONPATH", ""))
        variables = {**variables, "PYTHONPATH": ":".join(path for path in paths if path)}
    return {  # control: process.environment
        "HOME": policy.files.workspace,
        "USER": "user",
        "LOGNAME": "user",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        **variables,
    }


def _mounts(policy: Policy) -> tuple[PrivateMount, ...]:
    files, inodes = policy.files, policy.resources.inodes
    return (
        PrivateMount(files.workspace, files.workspace_size, inodes),
        PrivateMount("/tmp", files.tmp_size, inodes, 0o1777),  # noqa: S108  # a path inside
        PrivateMount("/dev/shm", files.tmp_size, inodes, 0o1777),  # noqa: S108  # a path inside
    )


def _landlock(policy: Policy) -> LandlockConfig:
    """Return the second wall: everything that is visible can be read, only the writable places written."""
    files = policy.files
    writable = [files.workspace, "/tmp", "/dev/shm"]  # noqa: S108  # paths inside
    writable += [mount.target for mount in files.mounts if mount.access == "rw"]
    writable += [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/pts",
        "/dev/ptmx",
    ]
    return LandlockConfig(readable=("/",), writable=tuple(writable), required=True)


def _rlimits(policy: Policy, groups: CgroupSupport | None) -> dict[int, tuple[int, int]]:
    """Return limits per process or, for processes, per user namespace.

    Where no cgroup limits memory or CPU time, these are all there is, and the plan says so.
    """
    wanted = policy.resources

    def grouped(ability: Ability) -> bool:
        return groups is not None and groups.mechanism(ability) is not None

    spare = _SPARE_PROCESSES if grouped(Ability.PROCESSES) else 0
    limits = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (wanted.open_files, wanted.open_files),  # control: resource.open-files
        resource.RLIMIT_NPROC: (wanted.processes + spare, wanted.processes + spare),  # control: resource.processes
        resource.RLIMIT_MEMLOCK: (64 * 1024, 64 * 1024),
        resource.RLIMIT_MSGQUEUE: (0, 0),
    }
    if not grouped(Ability.MEMORY):  # control: resource.memory
        # Private memory counts as data since Linux 4.7; shared memory only as address space.
        limits[resource.RLIMIT_DATA] = (wanted.memory, wanted.memory)
        space = max(wanted.memory, _MINIMUM_SPACE)
        limits[resource.RLIMIT_AS] = (space, space)
    if not grouped(Ability.CPU):  # control: resource.cpu
        seconds = max(1, math.ceil(policy.time.sandbox * wanted.cpus))
        limits[resource.RLIMIT_CPU] = (seconds, seconds)
    return limits
