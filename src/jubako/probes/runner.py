"""Runs containment probes: first outside, to show that each would succeed, then inside."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import anyio

from jubako._lib.levels import Enforcement
from jubako.boundary.registry import DriverRegistry
from jubako.errors import InvalidRequestError, JubakoError
from jubako.events import ProbeCompleted
from jubako.probes.catalogue import PROBES
from jubako.probes.ground import open_ground
from jubako.probes.mistake import MistakenDriver, OneDriver
from jubako.probes.model import Finding, Place, ProbeResult, ProbeRunReport, Profile, Verdict
from jubako.probes.profiles import granted_tool, policy_of
from jubako.probes.reference import Reference, find_bwrap, find_python
from jubako.probes.results import store_results
from jubako.probes.scenarios import SCENARIOS
from jubako.probes.scene import Scene, Unprovable, find_tagged, inconclusive, new_tag
from jubako.probes.sources import Sources
from jubako.probes.victim import victim
from jubako.runtime import AsyncSandbox, Runtime, SandboxState, Tool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from jubako.boundary.contract import Driver
    from jubako.probes.ground import Ground
    from jubako.probes.model import Probe
    from jubako.probes.victim import Victim

__all__ = ["conclude", "run_probes", "select_probes"]

_LEVELS: Final = {Enforcement.UNENFORCED: 0, Enforcement.PARTIAL: 1, Enforcement.ENFORCED: 2}


def select_probes(only: Iterable[str] = ()) -> tuple[Probe, ...]:
    """Return the probes whose id or control fits one of the shell patterns; all of them without a pattern.

    Raises:
        InvalidRequestError: Nothing fits a pattern.
    """
    patterns = tuple(only)
    if not patterns:
        return PROBES
    for pattern in patterns:
        if not any(_fits(probe, pattern) for probe in PROBES):
            msg = f"no probe fits {pattern!r}"
            raise InvalidRequestError(
                msg,
                hint="patterns are like 'net.*' or 'syscall.allowlist/bpf'; jubako probe --list shows all",
                details={"pattern": pattern},
            )
    return tuple(probe for probe in PROBES if any(_fits(probe, pattern) for pattern in patterns))


def _fits(probe: Probe, pattern: str) -> bool:
    return fnmatchcase(probe.id, pattern) or fnmatchcase(probe.control, pattern)


async def run_probes(
    boundary: str = "auto",
    *,
    driver: Driver | str | None = None,
    only: Iterable[str] = (),
    on_progress: Callable[[ProbeResult, int, int], None] | None = None,
    store: bool = True,
) -> ProbeRunReport:
    """Run the probes and return what came of each; a complete run is kept for cards.

    Args:
        boundary: Kind of wall, or ``auto`` for the strongest that works here.
        driver: A driver by name, or one that no registry has.
        only: Shell patterns of probe ids or control ids; all probes without one.
        on_progress: Called after each probe with its result, its number and how many there are.
        store: Whether a complete run is kept.

    Raises:
        InvalidRequestError: Nothing fits a pattern.
        DriverUnavailableError: The boundary does not work on this machine.
        JubakoError: The first sandbox could not be made.
    """
    probes = select_probes(only)
    started, clock = datetime.now(UTC), time.monotonic()
    registry = DriverRegistry() if driver is None or isinstance(driver, str) else OneDriver(driver)
    name = driver if isinstance(driver, str) else driver.name if driver is not None else None
    async with AsyncExitStack() as stack:
        # Without the last run's findings: what escaped then would refuse every launch, and could never be cleared.
        runtime = await stack.enter_async_context(Runtime(registry=registry, findings=False))
        ground = await stack.enter_async_context(open_ground())
        run = _Run(runtime, ground, boundary, name)
        stack.push_async_callback(run.aclose)
        first = await run.box(Profile.DEFAULT)
        card = first.card().boundary
        results = await _run_all(run, probes, on_progress)
        report = ProbeRunReport(
            driver=card.driver,
            boundary=str(card.kind),
            version=card.version or "",
            kernel=os.uname().release,
            uid=os.geteuid(),
            started=started,
            seconds=round(time.monotonic() - clock, 3),
            complete=len(probes) == len(PROBES),
            results=results,
        )
        runtime.record(
            ProbeCompleted(
                driver=report.driver,
                contained=report.count(Verdict.CONTAINED),
                escaped=report.count(Verdict.ESCAPED),
                inconclusive=report.count(Verdict.INCONCLUSIVE),
            )
        )
    if store and report.complete:
        store_results(report)
    return report


async def _run_all(
    run: _Run, probes: tuple[Probe, ...], on_progress: Callable[[ProbeResult, int, int], None] | None
) -> tuple[ProbeResult, ...]:
    """Run the probes in lanes side by side: those that mostly wait don't hold up the others."""
    found: dict[str, ProbeResult] = {}

    async def lane(number: int) -> None:
        for probe in probes:
            if _lane(probe) == number:
                result = found[probe.id] = await run.probe(probe)
                if on_progress is not None:
                    on_progress(result, len(found), len(probes))

    async with anyio.create_task_group() as tasks:
        for number in sorted({_lane(probe) for probe in probes}):
            tasks.start_soon(lane, number)
    return tuple(found[probe.id] for probe in probes)


def _lane(probe: Probe) -> int:
    """Return 0 for all that share sandboxes or look at the listeners; others wait for time to pass."""
    if not probe.alone or probe.witness:
        return 0
    if probe.scenario in {"overstay", "timeout"}:
        return 1
    return 2 if probe.scenario in {"freeze", "inbound", "outlive", "race"} or probe.profile is Profile.SLOW else 0


class _Run:
    """Sandboxes shared by the probes of one run, and the order of things within one probe."""

    def __init__(self, runtime: Runtime, ground: Ground, boundary: str, driver: str | None) -> None:
        self._runtime = runtime
        self._ground = ground
        self._boundary = boundary
        self._driver = driver
        self._sources = Sources()
        self._boxes: dict[Profile, AsyncSandbox] = {}
        self._neighbour: AsyncSandbox | None = None
        bwrap = find_bwrap()
        self._reference = Reference(bwrap, ground.room, ground.granted) if bwrap else None

    async def aclose(self) -> None:
        """Destroy the shared sandboxes."""
        for box in (*self._boxes.values(), *([self._neighbour] if self._neighbour else [])):
            await box.destroy()

    async def box(self, profile: Profile) -> AsyncSandbox:
        """Return the shared sandbox of a profile; a new one when the last one is gone."""
        box = self._boxes.get(profile)
        if box is None or box.state is not SandboxState.RUNNING:
            if box is not None:
                await box.destroy()
            box = self._boxes[profile] = self._new(profile, self._runtime)
            await box.start()
        return box

    async def probe(self, probe: Probe) -> ProbeResult:
        """Run one probe, outside and inside, and say what came of it."""
        clock = time.monotonic()
        scene = Scene(probe, self._ground, self._sources, self._reference)
        outside = await self._outside(scene)
        # What is hard to end outside may live a little longer, and must not be taken for what is inside.
        scene.tag = new_tag()
        inside, level = await self._inside(scene)
        verdict, reason = conclude(probe, outside, inside, level)
        return ProbeResult(
            id=probe.id,
            control=probe.control,
            title=probe.title,
            verdict=verdict,
            inside=inside.evidence,
            outside=outside.evidence,
            reason=reason,
            level=str(level) if level is not None else "",
            seconds=round(time.monotonic() - clock, 3),
        )

    async def _outside(self, scene: Scene) -> Finding:
        ground = self._ground
        try:
            async with self._watched(scene, ground.identity) as harm:
                finding = await SCENARIOS[scene.probe.scenario].outside(scene)
                return await harm(finding)
        except Unprovable as error:
            return inconclusive(str(error))
        except OSError as error:
            return inconclusive(f"it could not be run outside: {error}")

    async def _inside(self, scene: Scene) -> tuple[Finding, Enforcement | None]:
        try:
            async with self._placed(scene) as box:
                level = next((item.level for item in box.card().controls if item.id == scene.probe.control), None)
                scene.box = box
                identity = await self._host_user(scene) if scene.probe.witness == "victim" else None
                async with self._watched(scene, identity) as harm:
                    try:
                        finding = await SCENARIOS[scene.probe.scenario].inside(scene)
                    except JubakoError as error:
                        finding = inconclusive(f"the sandbox failed: {error}")
                    return await harm(finding), level
        except Unprovable as error:
            return inconclusive(str(error)), None
        except JubakoError as error:
            return inconclusive(f"no sandbox: {error}"), None

    @asynccontextmanager
    async def _placed(self, scene: Scene) -> AsyncGenerator[AsyncSandbox]:
        """Yield the sandbox for the inside run: shared, or one of its own that is destroyed afterwards."""
        probe = scene.probe
        if probe.scenario == "wreck" or "neighbour" in probe.name:
            scene.neighbour = await self._next_door()
        if not probe.alone:
            yield await self.box(probe.profile)
            return
        async with AsyncExitStack() as stack:
            runtime = self._runtime
            if probe.scenario == "mistake":
                mistaken = MistakenDriver(self._loaded_driver(), str(self._ground.granted))
                runtime = await stack.enter_async_context(Runtime(registry=OneDriver(mistaken), findings=False))
            box = self._new(probe.profile, runtime)
            stack.push_async_callback(box.destroy)
            await box.start()
            yield box

    def _loaded_driver(self) -> Driver:
        return self._runtime.planner.registry.load(self._boxes[Profile.DEFAULT].card().boundary.driver)

    def _new(self, profile: Profile, runtime: Runtime) -> AsyncSandbox:
        policy = policy_of(profile, self._ground.granted)
        tools = [Tool(granted_tool, name="granted")] if profile is Profile.TOOLS else []
        return AsyncSandbox(boundary=self._boundary, driver=self._driver, policy=policy, runtime=runtime, tools=tools)

    async def _next_door(self) -> AsyncSandbox:
        """A second sandbox with marked files of its own in every private place."""
        if self._neighbour is None or self._neighbour.state is not SandboxState.RUNNING:
            box = self._new(Profile.DEFAULT, self._runtime)
            await box.start()
            self._neighbour = box
            for path in ("/workspace/neighbour", "/tmp/neighbour", "/dev/shm/neighbour"):  # noqa: S108  # inside
                await box.files.write(path, self._ground.mark)
        return self._neighbour

    async def _host_user(self, scene: Scene) -> int | None:
        """Return the user as which the host's kernel sees the sandbox's programs; None for the caller's own."""
        if os.geteuid() != 0:
            return None
        if scene.trail != scene.tag:
            return next(iter(find_tagged(scene.trail).values()), self._ground.identity)
        tag = f"user-{scene.tag}"
        async with await scene.sandbox.exec(["/bin/sh", "-c", "sleep 5; :", tag], timeout=6):
            with anyio.move_on_after(2):
                while not (found := find_tagged(tag)):  # noqa: ASYNC110  # nobody tells of a new process
                    await anyio.sleep(0.005)
                return next(iter(found.values()))
        return self._ground.identity

    @asynccontextmanager
    async def _watched(self, scene: Scene, identity: int | None) -> AsyncGenerator[Harm]:
        """Yield what judges a finding by what the host saw, whatever the program said."""
        async with AsyncExitStack() as stack:
            held: Victim | None = None
            uses_victim = any("{victim" in text for text in scene.probe.arguments.values())
            if scene.probe.witness == "victim" or uses_victim:
                held = await stack.enter_async_context(victim(find_python(), self._ground.mark, identity))
                scene.extra |= {"victim": str(held.child.pid), "victim_address": str(held.address)}
            self._ground.listeners.calls = 0
            yield Harm(scene, held)


class Harm:
    """What the host looks at after a program ran."""

    def __init__(self, scene: Scene, held: Victim | None) -> None:
        self._scene = scene
        self._victim = held

    async def __call__(self, finding: Finding) -> Finding:
        """Return ``finding``, or an escape when the host was harmed."""
        if self._victim is not None and (seen := self._victim.harmed()):
            return Finding(Verdict.ESCAPED, seen)
        if self._scene.probe.witness == "calls":
            await anyio.sleep(0.005)
            if calls := self._scene.ground.listeners.calls:
                return Finding(Verdict.ESCAPED, f"the host's service was called ({calls})")
        return finding


def conclude(probe: Probe, outside: Finding, inside: Finding, level: Enforcement | None) -> tuple[Verdict, str]:
    """Return the verdict on the control and, where it is inconclusive, why."""
    if inside.verdict is Verdict.ESCAPED:
        if level is not None and _LEVELS[level] < _LEVELS[probe.claim]:
            return Verdict.INCONCLUSIVE, f"not promised: {probe.control} is {level} here, and this got through"
        return Verdict.ESCAPED, ""
    if outside.verdict is not Verdict.ESCAPED:
        ordinary = probe.outside.place is Place.CALLER and os.geteuid() != 0
        who = " (an ordinary user can't do it outside either; root can)" if ordinary else ""
        return Verdict.INCONCLUSIVE, f"not shown to work without the control: {outside.evidence}{who}"
    if inside.verdict is Verdict.INCONCLUSIVE:
        return Verdict.INCONCLUSIVE, inside.evidence
    return Verdict.CONTAINED, ""
