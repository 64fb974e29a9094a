"""The workbench of one check: makes sandboxes from the driver under test and removes them."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import anyio

from jubako.boundary.contract import DriverContext
from jubako.errors import JubakoError
from jubako.policy import Policy, SandboxSpec
from jubako.testing.conformance._guest import Guest, Toolchain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup

    from jubako.boundary.contract import Driver, Instance, ProbeReport, ToolLink
    from jubako.events import EventData

__all__ = ["MakeGuest", "MakeInstance", "Setup", "Workbench", "make_root"]

_CLOSING_SECONDS = 20.0


def make_root() -> Path:
    """Make a directory for checks that other users can get through, as a driver may give its privileges up.

    It isn't below /tmp, which sandboxes cover with one of their own.
    """
    root = Path(tempfile.mkdtemp(prefix="jubako-", dir="/var/tmp"))
    root.chmod(0o755)
    return root


@dataclass(frozen=True, slots=True)
class Setup:
    """What a check is given: the driver, a directory of its own and the programs inside.

    ``reports`` keeps the probe report of each driver object, because probing may start programs.
    ``patience`` stretches the time that anything may take before a check gives it up.
    """

    driver: Driver
    root: Path
    toolchain: Toolchain = field(default_factory=Toolchain)
    reports: dict[int, tuple[Driver, ProbeReport]] = field(default_factory=dict[int, "tuple[Driver, ProbeReport]"])
    patience: float = 1.0


class MakeGuest(Protocol):
    """Makes a sandbox; started unless told otherwise."""

    async def __call__(
        self,
        policy: Policy | None = None,
        *,
        start: bool = True,
        tools: ToolLink | None = None,
        preload: tuple[str, ...] = (),
    ) -> Guest: ...


class MakeInstance(Protocol):
    """Makes a bare instance; started unless told otherwise."""

    async def __call__(self, policy: Policy | None = None, *, start: bool = True) -> Instance: ...


class Workbench:
    """Everything that one check made, removed when the check is over."""

    def __init__(self, setup: Setup, tasks: TaskGroup) -> None:
        self.setup = setup
        self.driver = setup.driver
        self.tasks = tasks
        self.owner = f"conformance-{secrets.token_hex(4)}"
        self.events: list[EventData] = []
        self._report: ProbeReport | None = None
        self._made: list[Instance] = []
        self._directories: list[Path] = []

    @property
    def report(self) -> ProbeReport:
        """What the driver's probe said."""
        assert self._report is not None, "the workbench is not open"
        return self._report

    async def open(self) -> None:
        """Ask the driver what it can do here."""
        known = self.setup.reports.get(id(self.driver))
        if known is None:
            known = (self.driver, await self.driver.probe())
            self.setup.reports[id(self.driver)] = known
        self._report = known[1]

    async def arguments(self, names: Sequence[str]) -> dict[str, object]:
        """Return what a check asks for by name.

        ``guest`` is a fresh started sandbox and ``instance`` its bare instance; ``make_guest`` and
        ``make_instance`` make further ones; ``driver``, ``report`` and ``bench`` are what they say.
        """
        known: dict[str, object] = {
            "bench": self,
            "driver": self.driver,
            "make_guest": self.make_guest,
            "make_instance": self.make_instance,
            "report": self.report,
        }
        if "guest" in names or "instance" in names:
            known["guest"] = guest = await self.make_guest()
            known["instance"] = guest.instance
        return {name: known[name] for name in names}

    def context(self, tools: ToolLink | None = None) -> DriverContext:
        """Return a fresh context, with a private directory of its own and perhaps host functions."""
        sandbox_id = f"t{secrets.token_hex(6)}"
        directory = self.setup.root / sandbox_id
        directory.mkdir(mode=0o700, parents=True)
        self._directories.append(directory)
        return DriverContext(
            sandbox_id=sandbox_id,
            owner=self.owner,
            state_dir=directory,
            tasks=self.tasks,
            emit=self.events.append,
            tools=tools,
        )

    async def make_guest(
        self,
        policy: Policy | None = None,
        *,
        start: bool = True,
        tools: ToolLink | None = None,
        preload: tuple[str, ...] = (),
    ) -> Guest:
        """Make a sandbox under ``policy`` and start it."""
        spec = SandboxSpec(policy=policy or Policy(), preload=preload)
        plan = self.driver.plan(spec, self.report)
        instance = await self.driver.create(plan, self.context(tools))
        self._made.append(instance)
        if start:
            await instance.start()
        return Guest(instance, plan, self.setup.toolchain)

    async def make_instance(self, policy: Policy | None = None, *, start: bool = True) -> Instance:
        """Make a bare instance under ``policy`` and start it."""
        return (await self.make_guest(policy, start=start)).instance

    async def close(self, failure: BaseException | None) -> BaseException | None:
        """Destroy all instances; return the first failure, an earlier one before those of closing."""
        for instance in self._made:
            try:
                with anyio.fail_after(_CLOSING_SECONDS * self.setup.patience):
                    await self._end(instance)
            except (JubakoError, TimeoutError) as error:
                failure = failure or error
        for directory in self._directories:
            shutil.rmtree(directory, ignore_errors=True)
        return failure

    @staticmethod
    async def _end(instance: Instance) -> None:
        try:
            await instance.destroy()
        except JubakoError:
            # Checks of their own look at the second call of destroy: what is gone is gone.
            with anyio.move_on_after(0.5):
                await instance.wait()
                return
            raise
