"""Limits through a scope of the systemd user manager, for users who may not write cgroups themselves."""

from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING, Final

from jubako.boundary.contract import Reason
from jubako.errors import LaunchError
from jubako.linux.cgroup._files import read, wait_until
from jubako.linux.cgroup.group import Cgroup
from jubako.linux.cgroup.limits import check
from jubako.linux.cgroup.model import Ability, Limits, Mechanism, Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jubako.linux.cgroup.discover import Mount

__all__ = ["adopt_scope", "systemd_abilities", "systemd_scope_prefix"]

_ANSWER: Final = 0.2
_PATIENCE: Final = 5.0
_DELEGATED: Final = {
    "memory": (Ability.MEMORY, Ability.SWAP),
    "pids": (Ability.PROCESSES,),
    "cpu": (Ability.CPU,),
    "io": (Ability.IO,),
}
_REMEDY: Final = "log in through systemd-logind, or run `loginctl enable-linger` for this user"


def systemd_abilities(found: Sequence[Mount], environ: Mapping[str, str]) -> tuple[frozenset[Ability], Reason | None]:
    """Return what the user manager can limit for us, or nothing and why; never hangs."""
    point = next((mount.point for mount in found if mount.version == 2), None)
    if point is None:
        return frozenset(), Reason("cgroup-no-v2", "a systemd user manager limits only by cgroup v2", _REMEDY)
    if shutil.which("systemd-run", path=environ.get("PATH")) is None:
        return frozenset(), Reason("systemd-missing", "systemd-run is not installed", "install systemd")
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if not runtime or not any(_answers(f"{runtime}/{name}") for name in ("systemd/private", "bus")):
        return frozenset(), Reason("systemd-no-user-manager", "no systemd user manager answers", _REMEDY)
    uid = os.getuid()
    service = f"{point}/user.slice/user-{uid}.slice/user@{uid}.service"
    try:
        controllers = read(f"{service}/cgroup.controllers").split()
    except OSError:
        return frozenset(), Reason("systemd-no-user-manager", "the user manager has no cgroup of its own", _REMEDY)
    abilities = {ability for name in controllers for ability in _DELEGATED.get(name, ())}
    return frozenset(abilities | {Ability.FREEZE, Ability.KILL}), None


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_ANSWER)
        try:
            link.connect(path)
        except OSError:
            return False
    return True


def systemd_scope_prefix(limits: Limits, unit: str, disks: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the arguments to put before a program so that it runs in a limited scope of its own.

    ``unit`` is the scope's name without ``.scope``; ``disks`` are paths of block devices for the bandwidth limit.
    """
    settings = ["MemoryAccounting=yes", "TasksAccounting=yes", "CPUAccounting=yes"]
    if limits.memory is not None:
        settings += [f"MemoryMax={limits.memory}"]
        settings += [f"MemorySwapMax={limits.swap}"] if limits.swap is not None else []
    if limits.processes is not None:
        settings += [f"TasksMax={limits.processes}"]
    if limits.cpus is not None:
        settings += [f"CPUQuota={max(round(limits.cpus * 100), 1)}%", "CPUQuotaPeriodSec=100ms"]
    if limits.io_bytes_per_second is not None:
        rate = limits.io_bytes_per_second
        settings += [f"IO{way}BandwidthMax={disk} {rate}" for disk in disks for way in ("Read", "Write")]
    prefix = ["systemd-run", "--user", "--scope", "--quiet", "--collect", f"--unit={unit}"]
    return (*prefix, *(f"--property={item}" for item in settings), "--")


def adopt_scope(
    pid: int,
    unit: str,
    limits: Limits,
    found: Sequence[Mount],
    *,
    disks: Sequence[str] = (),
    proc: str = "/proc",
    timeout: float = _PATIENCE,
) -> Cgroup:
    """Return the group of the scope in which ``pid`` now runs, its limits read back.

    Raises:
        LaunchError: The process did not reach its scope in time, or a limit reads back differently.
    """
    point = next((mount.point for mount in found if mount.version == 2), None)
    if point is None:
        raise LaunchError("no cgroup v2 hierarchy is mounted", details={"unit": unit})
    path = ""

    def arrived() -> bool:
        nonlocal path
        try:
            lines = read(f"{proc}/{pid}/cgroup").splitlines()
        except OSError as error:
            msg = f"process {pid} ended before it reached scope {unit}"
            raise LaunchError(msg, details={"unit": unit}) from error
        path = next((line[3:] for line in lines if line.startswith("0::")), "")
        return path.endswith(f"/{unit}.scope")

    if not wait_until(arrived, timeout):
        msg = f"process {pid} did not reach scope {unit} within {timeout:g} s"
        raise LaunchError(msg, details={"unit": unit})
    directory = f"{point}{path}"
    places = dict.fromkeys(("", *read(f"{directory}/cgroup.controllers").split()), Place(2, directory))
    results = check(places, limits, disks, Mechanism.SYSTEMD)
    group = Cgroup(unit, places, results)
    wrong = [f"{item.ability}: {item.error}" for item in results if not item.verified]
    if wrong:
        group.destroy()
        msg = f"limits of scope {unit} were not taken: {'; '.join(wrong)}"
        raise LaunchError(msg, details={"unit": unit})
    return group
