"""contract.*, probe.*, plan.*: what can be checked before anything is started."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Final

import pytest

from jubako._lib.levels import Enforcement
from jubako.boundary.contract import BoundaryKind, Driver, Feature, Files, Instance, ProbeReport, Process
from jubako.errors import InvalidPolicyError, JubakoError
from jubako.policy import (
    CONTROLS,
    EnvironmentPolicy,
    FilePolicy,
    Mount,
    Policy,
    ResourcePolicy,
    SandboxSpec,
    SecretClause,
)
from jubako.testing.conformance._checks import Checks, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jubako.testing.conformance._guest import Guest

__all__ = ["PlanChecks"]

_CONDITIONAL: Final = frozenset(
    {"fs.mounts", "resource.io", "tool.calls", "observe.activity", "secret.broker", "data.labels"}
)
"""Controls that a plan must mention only when the policy has the clause."""

_FORBIDDEN_EVENTS: Final = ("open", "os.", "subprocess.", "socket.", "shutil.", "glob.", "ctypes.", "tempfile.")

_SPECS: Final = (
    SandboxSpec(),
    SandboxSpec(
        policy=Policy(resources=ResourcePolicy(memory=64 * 1024 * 1024, processes=10, io_bytes_per_second=1_000_000))
    ),
    SandboxSpec(
        policy=Policy(
            files=FilePolicy(mounts=(Mount(source="/srv", target="/data", access="ro"),), hide=("/usr/share",))
        )
    ),
    SandboxSpec(policy=Policy(environment=EnvironmentPolicy(variables={"A": "b"}))),
)


class _Tripwire:
    """Records what Python does while armed. An audit hook can't be removed, so it is disarmed instead."""

    def __init__(self) -> None:
        self.armed = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.armed and event.startswith(_FORBIDDEN_EVENTS):
            self.seen.append(f"{event}{arguments!r}"[:200])


def _members(protocol: type) -> Iterator[tuple[str, object]]:
    for name, value in vars(protocol).items():
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, value


def _same_shape(wanted: object, instance: object, name: str) -> None:
    """Check that a method is there, asynchronous where the contract is, and takes the same names."""
    if isinstance(wanted, property):
        assert hasattr(instance, name), f"{type(instance).__name__}.{name} is missing"
        return
    assert inspect.isfunction(wanted)
    method = getattr(instance, name, None)
    assert callable(method), f"{type(instance).__name__}.{name} is missing"
    assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(wanted), f"{name}: async or not"
    expected = list(inspect.signature(wanted).parameters.values())[1:]
    actual = inspect.signature(method).parameters
    for parameter in expected:
        assert parameter.name in actual, f"{name} takes no {parameter.name}"
        same = actual[parameter.name].default == parameter.default
        assert same, f"{name}({parameter.name}=...) has another default than the contract"
    extra = [item for item in actual.values() if item.name not in {known.name for known in expected}]
    assert all(item.default is not item.empty for item in extra), f"{name} needs more than the contract gives"


class PlanChecks(Checks):
    """Driver, probe and plan."""

    @check("contract.names")
    async def test_contract_names(self, driver: Driver) -> None:
        """A driver has a name and the kind of wall that it builds."""
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", driver.name)
        assert isinstance(driver.boundary, BoundaryKind)

    @check("contract.shape")
    async def test_contract_shape(self, driver: Driver, guest: Guest) -> None:
        """Driver, instance, files and process have the methods of the contract, with its parameters."""
        process = await guest.start(*guest.python("pass"))
        parts: tuple[tuple[type, object], ...] = (
            (Driver, driver),
            (Instance, guest.instance),
            (Files, guest.files),
            (Process, process),
        )
        for protocol, part in parts:
            for name, wanted in _members(protocol):
                _same_shape(wanted, part, name)
        await process.wait()

    @check("probe.repeatable")
    async def test_probe_repeatable(self, driver: Driver) -> None:
        """Asking twice gives the same answer."""
        assert await driver.probe() == await driver.probe()

    @check("probe.complete")
    async def test_probe_complete(self, report: ProbeReport) -> None:
        """A report has known features and plain facts, and a reason with a remedy when the driver is unavailable."""
        assert all(isinstance(item, Feature) for item in report.features)
        for name, value in report.facts.items():
            assert isinstance(name, str)
            assert value is None or isinstance(value, str | int | bool), f"{name}: {value!r}"
        for reason in report.reasons:
            assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", reason.code), reason
            assert reason.text
        if not report.available:
            assert any(reason.remedy for reason in report.reasons)

    @check("probe.absent", exclusive=True)
    async def test_probe_absent(self, driver: Driver) -> None:
        """Where its programs can't be found a driver says so, or finds them anyway; it never raises."""
        path = os.environ.get("PATH")
        os.environ["PATH"] = "/nonexistent"
        try:
            report = await type(driver).probe(driver)
        finally:
            if path is None:
                del os.environ["PATH"]
            else:
                os.environ["PATH"] = path
        assert report.available or report.reasons

    @check("plan.pure", exclusive=True)
    async def test_plan_pure(self, driver: Driver, report: ProbeReport) -> None:
        """The same spec and report give the same plan; no file, process or socket is touched."""
        tripwire = _Tripwire()
        for spec in _SPECS:
            first = driver.plan(spec, report)  # imports of its own are done now
            tripwire.armed = True
            try:
                again = driver.plan(spec, report)
            finally:
                tripwire.armed = False
            assert again == first
        assert tripwire.seen == []

    @check("plan.complete")
    async def test_plan_complete(self, driver: Driver, report: ProbeReport) -> None:
        """A plan mentions every control that the policy implies, once each, and none that doesn't exist."""
        for spec in _SPECS:
            mentioned = [item.control for item in driver.plan(spec, report).controls]
            assert len(mentioned) == len(set(mentioned)), "a control is mentioned twice"
            assert set(mentioned) <= set(CONTROLS)
            missing = set(CONTROLS) - _CONDITIONAL - set(mentioned)
            assert not missing, f"not mentioned: {sorted(missing)}"
        assert "fs.mounts" in [item.control for item in driver.plan(_SPECS[2], report).controls]
        assert "resource.io" in [item.control for item in driver.plan(_SPECS[1], report).controls]

    @check("plan.explained")
    async def test_plan_explained(self, driver: Driver, report: ProbeReport) -> None:
        """Each control names its mechanism, and where it doesn't fully hold the reason."""
        for spec in _SPECS:
            for item in driver.plan(spec, report).controls:
                assert isinstance(item.level, Enforcement)
                if item.level is not Enforcement.UNENFORCED:
                    assert item.mechanism, item
                if item.level is not Enforcement.ENFORCED:
                    assert item.reason, item

    @check("plan.carries")
    async def test_plan_carries(self, driver: Driver, report: ProbeReport) -> None:
        """A plan carries its spec, names its driver, and its payload can be written as JSON."""
        for spec in _SPECS:
            plan = driver.plan(spec, report)
            assert plan.spec == spec
            assert (plan.driver, plan.boundary) == (driver.name, driver.boundary)
            assert json.loads(json.dumps(dict(plan.payload))) is not None

    @check("plan.unmet")
    async def test_plan_unmet(self, driver: Driver, report: ProbeReport) -> None:
        """A clause that no driver enforces yet is shown as unenforced, never passed over."""
        clause = SecretClause(source="env:TOKEN", hosts=("example.org",))
        plan = driver.plan(SandboxSpec(policy=Policy(secrets={"TOKEN": clause})), report)
        levels = {item.control: item.level for item in plan.controls}
        assert levels.get("secret.broker") is Enforcement.UNENFORCED

    @check("plan.unavailable")
    async def test_plan_unavailable(self, driver: Driver) -> None:
        """A plan can be made from a report that knows nothing, for the card of an unavailable driver."""
        report = ProbeReport(available=False, version=None, features=frozenset())
        try:
            plan = driver.plan(SandboxSpec(), report)
        except JubakoError:
            return
        assert plan.driver == driver.name

    @check("plan.options")
    async def test_plan_options(self, driver: Driver, report: ProbeReport) -> None:
        """An option that the driver doesn't know raises InvalidPolicyError; those of other drivers don't matter."""
        own = Policy(driver_options={driver.name: {"no-such-option": True}})
        with pytest.raises(InvalidPolicyError):
            driver.plan(SandboxSpec(policy=own), report)
        other = Policy(driver_options={"another-driver": {"option": True}})
        assert driver.plan(SandboxSpec(policy=other), report).driver == driver.name
