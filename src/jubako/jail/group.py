"""A sandbox's cgroup, made beside its launch.

Putting a process into a cgroup waits for a grace period of the kernel's RCU, 10 to 20 ms on an idle
machine, as long as the agent needs to start: held apart, the two would add up.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from jubako.errors import JubakoError, LaunchError
from jubako.linux.cgroup import Limits, adopt_scope, mounts, systemd_scope_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from jubako.boundary.contract import Plan
    from jubako.linux.cgroup import Cgroup, CgroupManager, CgroupSupport

__all__ = ["LaunchGroup", "limits_of"]

_BUS_VARIABLES: Final = ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR")


class LaunchGroup:
    """The sandbox's cgroup: made by us beside or before the start, or by the user's systemd, or none."""

    def __init__(self, support: CgroupSupport | None, manager: CgroupManager | None, limits: Limits, name: str) -> None:
        self._manager = manager
        self._support = support
        self._limits = limits
        self._name = name
        self._error: JubakoError | None = None
        self._done = anyio.Event()
        self._first = anyio.Event()
        self._pid = 0
        self._started = False
        self._entered = False
        self.made: Cgroup | None = None
        self.prefix: tuple[str, ...] = ()
        self.environment: dict[str, str] = {}
        if self._manager is None and self._support is not None and self._support.how:
            self.prefix = systemd_scope_prefix(self._limits, self._unit, self._support.disks)
            self.environment = {name: os.environ[name] for name in _BUS_VARIABLES if name in os.environ}

    @property
    def _unit(self) -> str:
        return f"jubako-{self._name}"

    async def make_first(self) -> None:
        """Make the group before anything starts: what starts with ``prefix`` is inside with all its children.

        For programs that start processes of their own at once, which ``make`` would miss.

        Raises:
            LaunchError: It can't be made; nothing is left.
        """
        if self._manager is None:
            return
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._try, self._create, 0)
        if self._error is not None:
            raise self._error
        assert self.made is not None  # noqa: S101  # else there is an error
        self._entered = True
        self.prefix = self.made.launcher()

    async def make(self, monitor: int) -> None:
        """Make the group and put ``monitor`` and the process of ``add`` into it; errors show in ``join``."""
        self._started = True
        with anyio.CancelScope(shield=True):
            if self._manager is not None and not self._entered:
                await to_thread.run_sync(self._try, self._make, monitor)
            await self._first.wait()
            if self._pid and self._error is None and not self._entered:
                if self.made is not None:
                    await to_thread.run_sync(self._try, self.made.attach, self._pid)
                elif self.prefix:
                    await to_thread.run_sync(self._try, self._adopt, self._pid)
            self._done.set()

    def add(self, pid: int) -> None:
        """Name the first process inside, or 0 if there is none."""
        self._pid = pid
        self._first.set()

    async def join(self) -> None:
        """Return once the first process is in its group. Raises LaunchError when it can't be."""
        await self._done.wait()
        if self._error is not None:
            raise self._error

    async def remove(self) -> None:
        """End everything in the group and remove it."""
        self._first.set()
        if self._started:
            await self._done.wait()
        if self.made is not None:
            await to_thread.run_sync(self.made.destroy)

    def _try(self, step: Callable[[int], None], pid: int) -> None:
        try:
            step(pid)
        except JubakoError as error:
            self._error = error
        except OSError as error:
            self._error = LaunchError(f"the sandbox's cgroup can't be used: {error}", hint="jubako doctor")

    def _create(self, _: int) -> None:
        assert self._manager is not None  # noqa: S101  # the callers looked
        self.made = self._manager.create(self._name, self._limits)

    def _make(self, monitor: int) -> None:
        self._create(0)
        assert self.made is not None  # noqa: S101  # just made
        self.made.attach(monitor)

    def _adopt(self, pid: int) -> None:
        disks = self._support.disks if self._support is not None else ()
        self.made = adopt_scope(pid, self._unit, self._limits, mounts("/proc", None), disks=disks)


def limits_of(plan: Plan) -> Limits:
    """Return the cgroup limits that the plan's policy asks for."""
    resources = plan.spec.policy.resources
    return Limits(
        memory=resources.memory,
        swap=resources.swap,
        processes=resources.processes,
        cpus=resources.cpus,
        io_bytes_per_second=resources.io_bytes_per_second if plan.spec.policy.files.mounts else None,
    )
