"""Whether this user may make user namespaces, and if not, which switch forbids it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from jubako.boundary.contract import Reason

__all__ = ["probe_userns"]

_PATIENCE: Final = 5.0
_APPARMOR: Final = "kernel/apparmor_restrict_unprivileged_userns"
_DEBIAN: Final = "kernel/unprivileged_userns_clone"
_MAXIMUM: Final = "user/max_user_namespaces"


def probe_userns(
    *, sysctl: str = "/proc/sys", mountinfo: str = "/proc/self/mountinfo", unshare: str | None = None
) -> tuple[bool, tuple[Reason, ...]]:
    """Return whether an ordinary user gets a user namespace with a fresh /proc, and why not.

    Reads the switches, then makes one for real (a process of 2 ms): some refusals have no switch.
    """
    reasons = [*_switches(Path(sysctl)), *_masked_proc(Path(mountinfo))]
    program = unshare or shutil.which("unshare")
    if program is None:
        return not reasons, tuple(reasons)
    refusal = _try(program)
    if refusal is None:
        return True, ()
    if not reasons:
        reasons.append(
            Reason(
                "userns-refused",
                f"making a user namespace fails: {refusal}",
                "in a container, allow unshare and mount in its seccomp and AppArmor profile",
            )
        )
    return False, tuple(reasons)


def _value(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _switches(sysctl: Path) -> list[Reason]:
    reasons: list[Reason] = []
    if _value(sysctl / _MAXIMUM) == 0:
        text, remedy = "user namespaces are switched off", "sysctl -w user.max_user_namespaces=15000"
        reasons.append(Reason("userns-disabled", text, remedy))
    if os.geteuid() == 0:
        return reasons  # the other switches bind only ordinary users
    if _value(sysctl / _DEBIAN) == 0:
        text, remedy = "user namespaces are for root only", "sysctl -w kernel.unprivileged_userns_clone=1"
        reasons.append(Reason("userns-root-only", text, remedy))
    if _value(sysctl / _APPARMOR) == 1:
        text = "AppArmor takes all rights from user namespaces of unconfined programs"
        remedy = (
            "install an AppArmor profile that gives bwrap `userns,`, or "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
        reasons.append(Reason("userns-apparmor", text, remedy))
    return reasons


def _masked_proc(mountinfo: Path) -> list[Reason]:
    """Find mounts over parts of /proc: the kernel then refuses a fresh /proc in a user namespace."""
    try:
        lines = mountinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return [Reason("proc-missing", "/proc is not mounted", "mount -t proc proc /proc")]
    points = [line.split(" ")[4] for line in lines]
    # binfmt_misc is a directory made for mounting on and covers nothing.
    masked = [point for point in points if point.startswith("/proc/") and point != "/proc/sys/fs/binfmt_misc"]
    if not masked:
        return []
    text = f"parts of /proc are masked ({', '.join(masked[:3])}), as in a container"
    return [Reason("proc-masked", text, "start the container with --security-opt systempaths=unconfined")]


def _try(program: str) -> str | None:
    """Make a user, mount and pid namespace with a fresh /proc; return the complaint when that fails."""
    command = [program, "--user", "--map-current-user", "--mount", "--pid", "--fork", "--mount-proc", "/bin/true"]
    if os.geteuid() == 0:
        command[2:3] = ["--map-root-user"]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if result.returncode == 0 else result.stderr.strip()[-300:] or f"exit status {result.returncode}"
