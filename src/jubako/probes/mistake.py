"""A driver whose first wall has a hole, to see whether the second one stands; and a registry of one driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, cast

from jubako.boundary.contract import BoundaryKind
from jubako.boundary.registry import DriverEntry, DriverRegistry
from jubako.probes.scene import Unprovable

if TYPE_CHECKING:
    from jubako.boundary.contract import (
        Driver,
        DriverContext,
        Instance,
        InstanceRef,
        Plan,
        ProbeReport,
    )
    from jubako.policy import SandboxSpec

__all__ = ["MistakenDriver", "OneDriver"]


class OneDriver(DriverRegistry):
    """A registry that has one driver object and nothing else."""

    def __init__(self, driver: Driver) -> None:
        super().__init__((DriverEntry(driver.name, "", driver.boundary),), scan=tuple)
        self._drivers[driver.name] = driver


class MistakenDriver:
    """Passes everything to another driver, but binds ``source`` writable where the plan says read-only."""

    # The contract wants class variables; each object takes over its driver's.
    name: ClassVar[str] = ""
    boundary: ClassVar[BoundaryKind] = BoundaryKind.PROCESS

    def __init__(self, driver: Driver, source: str) -> None:
        self._driver = driver
        self._source = source
        vars(self).update(name=driver.name, boundary=driver.boundary)

    async def probe(self) -> ProbeReport:
        """As the driver."""
        return await self._driver.probe()

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """As the driver, with the mistake in it. Raises Unprovable where the plan has no such place."""
        plan = self._driver.plan(spec, report)
        return replace(plan, payload=_mistaken(plan.payload, self._source))

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """As the driver."""
        return await self._driver.create(plan, ctx)

    async def attach(self, ref: InstanceRef, ctx: DriverContext) -> Instance:
        """As the driver."""
        return await self._driver.attach(ref, ctx)

    async def orphans(self, owner: str | None) -> Sequence[InstanceRef]:
        """As the driver."""
        return await self._driver.orphans(owner)

    async def reap(self, ref: InstanceRef) -> None:
        """As the driver."""
        await self._driver.reap(ref)

    async def aclose(self) -> None:
        """Nothing: the driver is somebody else's."""


def _mistaken(payload: Mapping[str, object], source: str) -> Mapping[str, object]:
    """Return the payload with the argument before ``source`` turned from a read-only into a writable bind."""
    changed = dict(payload)
    for key, value in payload.items():
        if not isinstance(value, Sequence) or isinstance(value, str):
            continue
        words = [str(item) for item in cast("Sequence[object]", value)]
        for at in range(1, len(words)):
            if words[at] == source and words[at - 1] == "--ro-bind":
                changed[key] = (*words[: at - 1], "--bind", *words[at:])
                return changed
    raise Unprovable("this driver's plan has no bind mount that could be mistaken")
