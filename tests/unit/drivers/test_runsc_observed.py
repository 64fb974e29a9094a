"""The driver with a trace session: what a policy that asks for it gets, and what happens when it breaks."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.boundary.contract import DriverContext, Enforcement, ExecRequest, Instance
from jubako.drivers.runsc import RunscDriver
from jubako.errors import InstanceLostError, LaunchError
from jubako.events import EventData, FileOpened, ProgramExited, ProgramStarted, TraceFailed
from jubako.policy import ObservePolicy, Policy, SandboxSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import TaskGroup

    from jubako.drivers.runsc._instance import RunscInstance

pytestmark = [pytest.mark.anyio, pytest.mark.driver("runsc")]

OBSERVED = SandboxSpec(policy=Policy(observe=ObservePolicy(activity=True)))


class Maker:
    def __init__(self, directory: Path, tasks: TaskGroup) -> None:
        self.driver = RunscDriver()
        self.events: list[EventData] = []
        self.directory = directory
        self.made: list[Instance] = []
        self._tasks = tasks

    async def make(self, spec: SandboxSpec = OBSERVED) -> RunscInstance:
        plan = self.driver.plan(spec, await self.driver.probe())
        name = f"t{secrets.token_hex(6)}"
        (self.directory / name).mkdir(mode=0o700)
        context = DriverContext(name, "observed", self.directory / name, self._tasks, self.events.append)
        instance = await self.driver.create(plan, context)
        self.made.append(instance)
        return instance  # type: ignore[return-value]  # as this driver makes them


@pytest.fixture
async def maker(tmp_path: Path) -> AsyncIterator[Maker]:
    async with anyio.create_task_group() as tasks:
        maker = Maker(tmp_path, tasks)
        yield maker
        for instance in maker.made:
            await instance.destroy()
        await maker.driver.aclose()
    assert not [files for _, _, files in os.walk(tmp_path) if files]


async def test_what_programs_do_is_recorded(maker: Maker) -> None:
    instance = await maker.make()
    await instance.start()
    process = await instance.exec(ExecRequest(("sh", "-c", "cat /etc/shadow; exit 4")))
    assert (await process.wait()).code == 4
    await instance.stop(grace=timedelta(seconds=1))
    programs = [item.argv for item in maker.events if isinstance(item, ProgramStarted)]
    assert programs == [("sh", "-c", "cat /etc/shadow; exit 4"), ("cat", "/etc/shadow")]
    opened = [(item.path, item.error) for item in maker.events if isinstance(item, FileOpened)]
    assert ("/etc/shadow", 2) in opened
    assert [item.code for item in maker.events if isinstance(item, ProgramExited)] == [1, 4]


async def test_nothing_is_recorded_unless_the_policy_says_so(maker: Maker) -> None:
    instance = await maker.make(SandboxSpec())
    await instance.start()
    assert (await (await instance.exec(ExecRequest(("true",)))).wait()).code == 0
    assert maker.events == []


async def test_a_session_that_breaks_kills_the_sandbox_and_says_why(maker: Maker) -> None:
    instance = await maker.make()
    await instance.start()
    trace = instance._trace
    assert trace is not None
    process = await instance.exec(ExecRequest(("sleep", "100")))
    # As if the sentry had sent it: nobody else can write to the socket.
    trace._lost("a header has an impossible size")
    with anyio.fail_after(10):
        exit_ = await instance.wait()
    assert exit_.code == "instance-lost"
    assert "what its programs do can't be recorded (a header has an impossible size)" in exit_.message
    assert TraceFailed(reason="a header has an impossible size") in maker.events
    with pytest.raises(InstanceLostError):
        await process.wait()
    with pytest.raises(InstanceLostError):
        await instance.exec(ExecRequest(("true",)))


async def test_a_sentry_that_does_not_connect_is_not_used(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = await maker.make()
    monkeypatch.setattr("jubako.drivers.runsc._instance.TraceSession.config", lambda *_: b"{}")
    monkeypatch.setattr("jubako.drivers.runsc.trace._session._CONNECT_SECONDS", 1)
    with pytest.raises(LaunchError, match="did not open its trace session"):
        await instance.start()


async def test_a_gvisor_without_trace_sessions_is_not_enough(maker: Maker) -> None:
    report = await maker.driver.probe()
    facts = {**report.facts, "runsc.trace": False}
    plan = maker.driver.plan(OBSERVED, replace(report, facts=facts))
    (control,) = [item for item in plan.controls if item.control == "observe.activity"]
    assert control.level is Enforcement.UNENFORCED
    assert control.remedy
