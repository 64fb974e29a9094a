"""Whether the walls around a running process really stand, read from outside after each launch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jubako.linux.procinfo import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["NAMESPACES", "Expected", "WallFinding", "WallReport", "verify_walls"]

NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
"""Kinds of namespaces that a sandbox has of its own."""

_CAPABILITY_SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_LIMIT_NAMES: Final[Mapping[str, str]] = {
    "as": "Max address space",
    "core": "Max core file size",
    "cpu": "Max cpu time",
    "fsize": "Max file size",
    "memlock": "Max locked memory",
    "msgqueue": "Max msgqueue size",
    "nofile": "Max open files",
    "nproc": "Max processes",
    "sigpending": "Max pending signals",
    "stack": "Max stack size",
}
_NAME_WIDTH: Final = 26  # /proc/<pid>/limits is a table with fixed columns


@dataclass(frozen=True, slots=True)
class Expected:
    """What must be true of the process. ``limits`` are upper bounds of hard rlimits by lower-case name.

    ``capabilities`` False lets it keep some: for processes that have them in a user namespace of their
    own only, which ``namespaces`` must ask for then.
    """

    namespaces: tuple[str, ...] = NAMESPACES
    seccomp: bool = True
    capabilities: bool = True
    uid: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class WallFinding:
    """One thing that is not as it must be, or that could not be read."""

    control: str
    subject: str
    expected: str
    seen: str


@dataclass(frozen=True, slots=True)
class WallReport:
    """``mismatches`` are walls that do not stand; ``unverifiable`` is what this user may not read."""

    mismatches: tuple[WallFinding, ...] = ()
    unverifiable: tuple[WallFinding, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing contradicts what was expected."""
        return not self.mismatches


def verify_walls(pid: int, expected: Expected | None = None) -> WallReport:
    """Return how the walls around ``pid`` differ from what is expected.

    A process that is gone is a mismatch: fail closed. The caller holds a pidfd, so that the pid
    can't belong to another process meanwhile.
    """
    expected = expected or Expected()
    text = read_file(f"/proc/{pid}/status")
    if text is None:
        gone = WallFinding("process.isolation", "status", "readable", "gone or hidden")
        return WallReport(mismatches=(gone,))
    status = _fields(text)
    mismatches = [*_privileges(status, expected), *_identity(status, expected), *_limits(pid, expected)]
    unverifiable: list[WallFinding] = []
    for finding in _namespaces(pid, status, expected):
        (unverifiable if finding.seen == "unreadable" else mismatches).append(finding)
    return WallReport(tuple(mismatches), tuple(unverifiable))


def _fields(text: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _privileges(status: Mapping[str, str], expected: Expected) -> Iterator[WallFinding]:
    if status.get("NoNewPrivs") != "1":  # control: syscall.no-new-privileges
        yield WallFinding("syscall.no-new-privileges", "NoNewPrivs", "1", status.get("NoNewPrivs", "missing"))
    if expected.seccomp and status.get("Seccomp") != "2":  # control: syscall.allowlist
        yield WallFinding("syscall.allowlist", "Seccomp", "2", status.get("Seccomp", "missing"))
    for name in _CAPABILITY_SETS if expected.capabilities else ():  # control: syscall.capabilities
        value = status.get(name, "missing")
        if value.strip("0"):
            yield WallFinding("syscall.capabilities", name, "0", value)


def _identity(status: Mapping[str, str], expected: Expected) -> Iterator[WallFinding]:
    uids = status.get("Uid", "").split()
    wanted = "not 0" if expected.uid is None else str(expected.uid)
    right = bool(uids) and (all(uid == wanted for uid in uids) if expected.uid is not None else "0" not in uids)
    if not right:  # control: process.identity
        yield WallFinding("process.identity", "Uid", wanted, " ".join(uids) or "missing")
    gids = status.get("Gid", "").split()
    if not gids or "0" in gids:
        yield WallFinding("process.identity", "Gid", "not 0", " ".join(gids) or "missing")


def _control(kind: str) -> str:
    return {"net": "net.default-deny", "mnt": "fs.host-hidden", "ipc": "process.ipc", "uts": "process.identity"}.get(
        kind, "process.isolation"
    )


def _namespaces(pid: int, status: Mapping[str, str], expected: Expected) -> Iterator[WallFinding]:
    for kind in expected.namespaces:
        ours = Path(f"/proc/self/ns/{kind}").stat()
        try:
            theirs = Path(f"/proc/{pid}/ns/{kind}").stat()
        except FileNotFoundError:
            yield WallFinding(_control(kind), f"ns/{kind}", "a namespace of its own", "gone")
            continue
        except PermissionError:
            # Not ours to look at (another user's or a non-dumpable process); status tells at least the pid depth.
            if kind != "pid" or len(status.get("NSpid", "").split()) < 2:
                yield WallFinding(_control(kind), f"ns/{kind}", "a namespace of its own", "unreadable")
            continue
        if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
            yield WallFinding(_control(kind), f"ns/{kind}", "a namespace of its own", "the host's")


def _limits(pid: int, expected: Expected) -> Iterator[WallFinding]:
    if not expected.limits:
        return
    text = (read_file(f"/proc/{pid}/limits") or b"").decode("ascii", "replace")
    rows = {line[:_NAME_WIDTH].strip(): line[_NAME_WIDTH:].split() for line in text.splitlines()}
    for name, most in expected.limits.items():
        row = rows.get(_LIMIT_NAMES[name], [])
        hard = row[1] if len(row) > 1 else "missing"
        if not hard.isdigit() or int(hard) > most:
            control = {"nofile": "resource.open-files", "nproc": "resource.processes"}.get(name, "resource.memory")
            yield WallFinding(control, f"rlimit {name}", f"at most {most}", hard)
