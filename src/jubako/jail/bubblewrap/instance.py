"""One sandbox behind bubblewrap."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from jubako.errors import LaunchError
from jubako.jail.bubblewrap.launch import Fittings, Launched, launch
from jubako.jail.instance import AgentInstance
from jubako.linux.cgroup import Ability
from jubako.linux.verify import Expected, verify_walls

if TYPE_CHECKING:
    from jubako.boundary.contract import DriverContext, Plan
    from jubako.guest import GuestSession, SessionConfig
    from jubako.jail.bubblewrap.probe import Machine

__all__ = ["JailedInstance"]

_NAMESPACES: Final = ("ipc", "mnt", "net", "pid", "user", "uts")
"""The cgroup namespace is only a view; kernels without one are fine."""
_PLAIN: Final = Fittings()


class JailedInstance(AgentInstance[Launched]):
    """A sandbox in a bubblewrap jail. Made by a driver's ``create``; not by callers."""

    def __init__(
        self,
        plan: Plan,
        ctx: DriverContext,
        machine: Machine,
        *,
        agent: bytes,
        config: SessionConfig,
        fittings: Fittings = _PLAIN,
    ) -> None:
        super().__init__(plan, ctx)
        self._machine = machine
        self._agent = agent
        self._told = config
        self._fittings = fittings

    async def _launch(self) -> Launched:
        return await launch(
            self._plan,
            self._machine,
            self._ctx.tasks,
            name=self.full_name,
            agent=self._agent,
            fittings=self._fittings,
        )

    def _config(self) -> SessionConfig:
        return self._told

    def _verify(self, launched: Launched, session: GuestSession) -> None:
        """Refuse a sandbox whose walls are not seen from outside, whatever bubblewrap said."""
        report = verify_walls(launched.pid, Expected(namespaces=_NAMESPACES))
        if not report.sound:
            wrong = [f"{item.control}: {item.subject} is {item.seen}" for item in report.mismatches]
            raise LaunchError(
                "the sandbox came up without all its walls: " + "; ".join(wrong),
                hint="this is a bug or a tampered bubblewrap; nothing was run",
                details={"walls": wrong},
            )
        if self._planned("fs.second-wall") and not session.hello.landlock:
            raise LaunchError(
                "the plan promised Landlock, the sandbox came up without it",
                details={"control": "fs.second-wall"},
            )

    def _can_freeze(self) -> bool:
        return self._machine.cgroups is not None and self._machine.cgroups.mechanism(Ability.FREEZE) is not None

    def _disk(self, launched: Launched) -> int | None:
        """Return the bytes in the workspace, or None where the sandbox's root may not be looked into.

        The path can't lead elsewhere: it is a mount point below a read-only root.
        """
        try:
            space = os.statvfs(f"/proc/{launched.pid}/root{self._plan.spec.policy.files.workspace}")
        except OSError:
            return None
        return (space.f_blocks - space.f_bfree) * space.f_frsize
