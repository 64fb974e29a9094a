"""Whether the walls around a gVisor sandbox stand, seen from outside: sentry, gofer, namespaces, cgroup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jubako.linux.procinfo import children, read_file
from jubako.linux.verify import Expected, verify_walls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jubako.jail.bubblewrap import Launched

__all__ = ["verify_sandbox"]

_NAMESPACES: Final = ("ipc", "mnt", "net", "pid", "user", "uts")
_PARTS: Final[Mapping[str, bytes]] = {"sentry": b"runsc-sandbox", "gofer": b"runsc-gofer"}


def verify_sandbox(launched: Launched) -> tuple[str, ...]:
    """Return what is not as it must be. Pre: the agent has answered, so gVisor has finished its own set-up.

    Both parts of gVisor keep some capabilities in user namespaces of their own; on the host they have none.
    """
    parts = {
        name: pid
        for pid in children(launched.pid)
        for name, title in _PARTS.items()
        if (read_file(f"/proc/{pid}/cmdline") or b"").split(b"\0")[0] == title
    }
    wrong = [f"process.isolation: no {name} is seen" for name in _PARTS if name not in parts]
    for name, pid in parts.items():
        wrong += _look(name, pid)
    return (*wrong, *_outside(launched, parts))


def _look(name: str, pid: int) -> Iterator[str]:
    report = verify_walls(pid, Expected(namespaces=_NAMESPACES, capabilities=False))
    for item in report.mismatches:
        yield f"{item.control}: {name}'s {item.subject} is {item.seen}"


def _outside(launched: Launched, parts: Mapping[str, int]) -> Iterator[str]:
    """Yield each part that the sandbox's cgroup does not hold."""
    if launched.cgroup is None:
        return
    inside = launched.cgroup.pids()
    for name, pid in (("runsc", launched.pid), *parts.items()):
        if pid not in inside:
            yield f"resource.memory: {name} is outside the sandbox's cgroup"
