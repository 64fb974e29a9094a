"""Finds and ends processes of sandboxes whose maker was killed at an unlucky moment.

bubblewrap and the agent die with their maker by themselves, but for one window: bubblewrap's child
waits for its parent to write the user map before it asks to die with it. Killed just then, the
parent leaves a child that sleeps for good, in no cgroup yet. Its command line names the sandbox.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from jubako.errors import LaunchError
from jubako.jail.names import full_name, ref_of
from jubako.linux.procinfo import pids, read_file

if TYPE_CHECKING:
    from jubako.boundary.contract import InstanceRef
    from jubako.linux.cgroup import CgroupManager

__all__ = ["BUNDLE", "MARKER", "find_orphans", "leftovers", "reap_named", "remove_processes"]

MARKER: Final = "--sandbox"
"""The agent's last argument but one; the last is the sandbox's full name (``jail.names``)."""
BUNDLE: Final = "/run/jubako/bundle"
"""The same for OCI runtimes, whose last arguments are the bundle and the container's name."""

_PATIENCE_MS: Final = 5000


def leftovers() -> dict[str, set[int]]:
    """Return the visible processes that belong to sandboxes, live or left behind, by full name."""
    found: dict[str, set[int]] = {}
    for pid in pids():
        name = _name(pid)
        if name is not None:
            found.setdefault(name, set()).add(pid)
    return found


def _name(pid: int) -> str | None:
    words = (read_file(f"/proc/{pid}/cmdline") or b"").split(b"\0")
    if len(words) < 4 or words[-3] not in {MARKER.encode(), BUNDLE.encode()}:  # the text ends with a NUL
        return None
    return words[-2].decode("ascii", "replace")


def find_orphans(driver: str, owner: str | None, groups: CgroupManager | None) -> tuple[InstanceRef, ...]:
    """Return the sandboxes of ``driver`` and ``owner`` (anybody's, for None) seen by process or cgroup. Blocking."""
    names = set(leftovers())
    if groups is not None:
        names |= groups.names()
    refs = (ref for name in sorted(names) if (ref := ref_of(name)) is not None)
    return tuple(ref for ref in refs if ref.driver == driver and owner in {None, ref.owner})


def reap_named(ref: InstanceRef, groups: CgroupManager | None) -> None:
    """End what is left of the sandbox and remove its cgroup. Blocking."""
    # The cgroup goes first: a frozen one delivers no signal until it thaws.
    if groups is not None:
        groups.reap(full_name(ref))
    remove_processes(full_name(ref))


def remove_processes(name: str) -> None:
    """End every process that belongs to the sandbox ``name``.

    Raises:
        LaunchError: One of them survives SIGKILL for seconds, as one in a frozen cgroup does.
    """
    for pid in leftovers().get(name, ()):
        with suppress(ProcessLookupError):
            _end(pid, name)


def _end(pid: int, name: str) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        if _name(pid) != name:  # the number went to another process meanwhile
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        gone = select.poll()
        gone.register(pidfd, select.POLLIN)
        if not gone.poll(_PATIENCE_MS):
            msg = f"process {pid} of sandbox {name} does not end"
            raise LaunchError(msg, details={"pid": pid, "sandbox": name})
    finally:
        os.close(pidfd)
