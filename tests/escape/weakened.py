"""The real driver with one of its walls taken away, to see that probes notice."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import anyio

from jubako.drivers.bwrap import BwrapDriver
from jubako.jail.bubblewrap import driver, instance, launch
from jubako.jail.bubblewrap.session import session_config
from jubako.jail.group import limits_of
from jubako.linux.verify import WallReport

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from jubako.boundary.contract import DriverContext, ExecRequest, Instance, Plan, ProbeReport, Process
    from jubako.guest import SessionConfig
    from jubako.jail.bubblewrap.probe import Machine
    from jubako.linux.cgroup import Limits
    from jubako.policy import SandboxSpec

ALLOW_ALL = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
"""A filter of one instruction: return SECCOMP_RET_ALLOW."""

GIB = 1024**3

Words = tuple[str, ...]


@dataclass(frozen=True)
class Weakening:
    """What is taken away, and which probes must then report an escape.

    ``landlock`` keeps the second wall; most first walls show only without it.
    """

    name: str
    escapes: Words
    mounts: Callable[[Words], Words] | None = None
    namespaces: Callable[[Words], Words] | None = None
    session: Callable[[SessionConfig], SessionConfig] | None = None
    limits: Callable[[Limits], Limits] | None = None
    instance: Callable[[Instance, DriverContext], Any] | None = None
    seccomp: bool = True
    landlock: bool = False
    hide: bool = True
    drop: bool = True
    needs_root: bool = False


class WeakDriver(BwrapDriver):
    """The driver with ``weakening`` applied to its plans and instances."""

    def __init__(self, weakening: Weakening) -> None:
        super().__init__()
        self._weakening = weakening

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        plan = super().plan(spec, report)
        if self._weakening.mounts is None:
            return plan
        words = plan.payload["mounts"]
        assert isinstance(words, tuple)
        changed = self._weakening.mounts(words)
        assert changed != words, "the weakening took nothing away"
        return replace(plan, payload={**plan.payload, "mounts": changed})

    async def _probed(self) -> Machine:
        machine = await super()._probed()
        return machine if self._weakening.drop else replace(machine, drop=())

    def _filter(self, plan: Plan) -> bytes:
        return super()._filter(plan) if self._weakening.seccomp else ALLOW_ALL

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        instance = await super().create(plan, ctx)
        if self._weakening.instance is None:
            return instance
        return cast("Instance", self._weakening.instance(instance, ctx))


@contextmanager
def weakened(weakening: Weakening) -> Generator[WeakDriver]:
    """Yield the driver; within, the driver's own checks of its walls are off."""
    mask = launch.mask_arguments

    def session(*args: Any) -> SessionConfig:
        config = session_config(*args)
        if not weakening.landlock:
            config = replace(config, landlock=None)
        return weakening.session(config) if weakening.session else config

    with (
        patch.object(driver, "session_config", session),
        patch.object(instance.JailedInstance, "_planned", lambda *_args: False),
        patch.object(instance, "verify_walls", lambda *_args: WallReport()),
        patch.object(launch, "mask_arguments", mask if weakening.hide else lambda *_args: []),
        patch.object(
            launch,
            "limits_of",
            lambda plan: weakening.limits(limits_of(plan)) if weakening.limits else limits_of(plan),
        ),
        patch.object(
            launch,
            "_NAMESPACES",
            weakening.namespaces(launch._NAMESPACES) if weakening.namespaces else launch._NAMESPACES,
        ),
    ):
        yield WeakDriver(weakening)


def without(*gone: str) -> Callable[[Words], Words]:
    """Return what drops words."""

    def change(words: Words) -> Words:
        assert set(gone) <= set(words)
        return tuple(word for word in words if word not in gone)

    return change


def plus(*more: str) -> Callable[[Words], Words]:
    """Return what adds words at the end."""
    return lambda words: (*words, *more)


def instead(old: Words, new: Words) -> Callable[[Words], Words]:
    """Return what replaces a run of words."""

    def change(words: Words) -> Words:
        for at in range(len(words)):
            if words[at : at + len(old)] == old:
                return (*words[:at], *new, *words[at + len(old) :])
        return words

    return change


class Passing:
    """Passes everything to another object."""

    def __init__(self, inner: Any, ctx: DriverContext) -> None:
        self._inner = inner
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class NoTimeout(Passing):
    """An instance that forgets time limits."""

    async def exec(self, request: ExecRequest) -> Process:
        process: Process = await self._inner.exec(replace(request, timeout=timedelta(hours=1)))
        return process


class NoOutputLimit(Passing):
    """An instance that forgets output limits."""

    async def exec(self, request: ExecRequest) -> Process:
        process: Process = await self._inner.exec(replace(request, max_output=GIB))
        return process


class NoFreezer(Passing):
    """An instance that only says that it is paused."""

    async def pause(self) -> None:
        """Do nothing."""

    async def resume(self) -> None:
        """Do nothing."""


class LateEnd(Passing):
    """An instance that says that it is gone, and goes a good while later."""

    async def destroy(self) -> None:
        self._ctx.tasks.start_soon(self._later)

    async def _later(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1.5)
            await self._inner.destroy()
