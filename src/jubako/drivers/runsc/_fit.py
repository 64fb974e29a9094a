"""What a snapshot needs where it is restored: the same gVisor, processor, toolchain and agent, and a plan like its own.

An image holds what was set up once and can't be changed from outside: mounts and their sizes, filters,
limits per process, variables. What is held outside of it, such as the limits of the cgroup, is the
restored sandbox's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jubako.errors import SnapshotIncompatibleError
from jubako.guest.wire import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jubako.boundary.contract import Plan
    from jubako.drivers.runsc._probe import RunscMachine
    from jubako.guest import SessionConfig

__all__ = ["check_fit", "requirements"]

_SHOWN: Final = 80


def requirements(plan: Plan, machine: RunscMachine, config: SessionConfig, agent: bytes) -> Mapping[str, str]:
    """Return what a snapshot of a sandbox of ``plan`` requires. Blocking: it reads about the machine."""
    policy, files = plan.spec.policy, plan.spec.policy.files
    limits = {
        f"limit.{name.removeprefix('RLIMIT_').lower()}": f"{config.rlimits[number][0]}"
        for name in sorted(dir(resource))
        if name.startswith("RLIMIT_") and (number := getattr(resource, name)) in config.rlimits
    }
    return {
        "agent": _short(agent),
        "agent.protocol": str(PROTOCOL),
        "cpu": _processor(),
        "gvisor": f"{machine.report.version} {machine.platform} {machine.digest[:16]}",
        "toolchain": _toolchain(machine.python),
        "files.hide": _short(sorted(files.hide)),
        "files.mounts": _short([(item.source, item.target, item.access) for item in files.mounts]),
        "files.tmp_size": str(files.tmp_size),
        "files.workspace": files.workspace,
        "files.workspace_size": str(files.workspace_size),
        "environment": " ".join(sorted(config.env)),
        "preload": " ".join(plan.spec.preload),
        "syscalls": _short(config.seccomp),
        "tools": str(bool(policy.tools)).lower(),
        **limits,
    }


def check_fit(requires: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Return if a snapshot finds what it ``requires``. Raises SnapshotIncompatibleError naming what differs."""
    wrong = sorted(name for name in requires.keys() | here.keys() if requires.get(name) != here.get(name))
    if wrong:
        parts = [f"{name} (was {_show(requires.get(name))}, is {_show(here.get(name))})" for name in wrong]
        msg = f"the snapshot does not fit here: {', '.join(parts)}"
        raise SnapshotIncompatibleError(
            msg,
            hint="make it again on this machine, and restore it with the policy of its sandbox",
            details={"differs": wrong},
        )


def _show(value: str | None) -> str:
    return "nothing" if value is None else (value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...") or "none"


def _short(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return hashlib.sha256(data).hexdigest()[:16]


@cache
def _processor() -> str:
    """Return the processor's model and abilities: a restored program has looked at them once, and relies on them."""
    lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n", 1)[0].splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {key.strip(): value.strip() for key, value in found.items()}
    model = known.get("model name") or known.get("CPU part") or "unknown"
    abilities = sorted((known.get("flags") or known.get("Features") or "").split())
    return f"{platform.machine()} {model} {_short(abilities)}"


def _toolchain(python: str) -> str:
    """Return what changes when the host's packages are upgraded: files that an image maps must stay the same."""
    seen: list[tuple[str, int, int]] = []
    for path in (python, "/etc/ld.so.cache"):
        try:
            found = os.stat(path)  # noqa: PTH116  # as the interpreter's path is given
        except OSError:
            continue
        seen.append((path, found.st_size, found.st_mtime_ns))
    return _short(seen)
