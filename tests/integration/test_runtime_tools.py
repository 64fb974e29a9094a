"""Programs inside call functions of the host, end to end over the real process boundary."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from jubako import AsyncSandbox, Policy, Runtime, Sandbox, SandboxSpec, Tool, ToolError, ToolGrant
from jubako.errors import InvalidPolicyError, InvalidRequestError, LedgerError
from jubako.sinks import Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jubako.events import Event

pytestmark = [pytest.mark.anyio, pytest.mark.driver("bwrap")]

CALL = """
import json, sys
import jubako_tools
for name, arguments in json.loads(sys.argv[1]):
    try:
        print(json.dumps(jubako_tools.call(name, **arguments)))
    except jubako_tools.ToolError as error:
        print(error.code, error.message)
"""


class Collector:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)

    def calls(self) -> list[tuple[str, str]]:
        return [(item.data.tool, item.data.verdict) for item in self.events if item.data.type == "tool.called"]


@pytest.fixture
def sink() -> Collector:
    return Collector()


@pytest.fixture
async def runtime(sink: Collector) -> AsyncIterator[Runtime]:
    async with Runtime(sinks=[sink]) as made:
        yield made


async def ask(box: AsyncSandbox, *calls: tuple[str, dict[str, Any]]) -> list[str]:
    process = await box.exec(["python3", "-c", CALL, json.dumps(calls)])
    result = (await process.result()).check()
    return result.stdout.splitlines()


def look_up(city: str, unit: str = "C") -> dict[str, object]:
    """Return the temperature of a city."""
    if city == "Atlantis":
        msg = "no such city"
        raise ToolError(msg)
    return {"city": city, "degrees": 21, "unit": unit}


async def later(seconds: float) -> str:
    """Answer later."""
    await anyio.sleep(seconds)
    return "done"


async def test_programs_call_what_is_granted(runtime: Runtime, sink: Collector) -> None:
    policy = Policy().with_tools("look_up", grant=ToolGrant(calls=3)).with_tools("later", grant=ToolGrant(seconds=0.1))
    async with AsyncSandbox(boundary="process", policy=policy, tools=[look_up, later], runtime=runtime) as box:
        lines = await ask(
            box,
            ("look_up", {"city": "Ulm"}),
            ("look_up", {"city": "Atlantis"}),
            ("look_up", {"town": "Ulm"}),
            ("send", {}),
            ("later", {"seconds": 0.0}),
            ("later", {"seconds": 60.0}),
            ("look_up", {"city": "Bonn", "unit": "K"}),
            ("look_up", {"city": "Bonn"}),
        )
    assert json.loads(lines[0]) == {"city": "Ulm", "degrees": 21, "unit": "C"}
    assert lines[1] == "tool-failed no such city"
    assert lines[2].startswith("tool-arguments 2 problems in the arguments")
    assert lines[3].startswith("tool-denied the policy grants no tool of that name")
    assert lines[4:6] == ['"done"', "tool-timed-out no answer within 0.1 s"]
    assert json.loads(lines[6])["unit"] == "K"
    assert lines[7].startswith("tool-over-budget the budget of 3 calls is used up")
    assert sink.calls() == [
        ("look_up", "answered"),
        ("look_up", "failed"),
        ("look_up", "invalid"),
        ("send", "denied"),
        ("later", "answered"),
        ("later", "timed-out"),
        ("look_up", "answered"),
        ("look_up", "over-budget"),
    ]
    assert [item.data.control for item in sink.events if item.data.type == "limit.reached"] == ["tool.calls"]
    assert [event.seq for event in sink.events if event.sandbox == box.id] == list(
        range(1, 1 + sum(event.sandbox == box.id for event in sink.events))
    )


async def test_the_card_says_what_the_code_may_call(runtime: Runtime) -> None:
    policy = Policy().with_tools("look_up")
    async with AsyncSandbox(boundary="process", policy=policy, tools=[Tool(look_up)], runtime=runtime) as box:
        card = box.card()
    assert ("host function", "look_up: 100 calls, 30 s each, 64 KiB in, 1 MiB out") in [
        (fact.label, fact.value) for fact in card.policy.summary
    ]
    assert [(item.level, item.verdict) for item in card.controls if item.id == "tool.calls"] == [("enforced", "ok")]


async def test_wrong_grants_are_refused_before_anything_starts(runtime: Runtime) -> None:
    with pytest.raises(InvalidRequestError, match="does not grant the tools look_up"):
        AsyncSandbox(boundary="process", tools=[look_up], runtime=runtime)
    with pytest.raises(InvalidRequestError, match="nobody supplies: look_up"):
        AsyncSandbox(boundary="process", policy={"tools": {"look_up": {}}}, runtime=runtime)
    with pytest.raises(InvalidRequestError, match="nobody supplies: look_up"):
        await runtime.create(SandboxSpec(policy=Policy().with_tools("look_up")))
    with pytest.raises(InvalidPolicyError, match=r"tools\.look_up\.calls"):
        AsyncSandbox(boundary="process", policy={"tools": {"look_up": {"calls": 0}}}, tools=[look_up], runtime=runtime)
    assert runtime.sandboxes() == ()


async def test_destroying_cancels_calls(runtime: Runtime, sink: Collector) -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def hold(x: int) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    box = AsyncSandbox(boundary="process", policy=Policy().with_tools("hold"), tools=[hold], runtime=runtime)
    await box.start()
    await box.exec(["python3", "-c", CALL, json.dumps([("hold", {"x": 1})])])
    with anyio.fail_after(20):
        await began.wait()
        await box.destroy()
        await ended.wait()
    assert sink.calls() == [("hold", "cancelled")]
    told = [event for event in sink.events if event.sandbox == box.id]
    assert told[-1].type == "sandbox.state_changed"
    assert [event.seq for event in told] == list(range(1, len(told) + 1))


async def test_calls_that_can_not_be_recorded_end_the_sandbox(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Ledger.write

    def failing(self: Ledger, event: Event) -> None:
        if event.type == "tool.called":
            msg = "the disk is full"
            raise LedgerError(msg)
        write(self, event)

    monkeypatch.setattr(Ledger, "write", failing)
    box = AsyncSandbox(boundary="process", policy=Policy().with_tools("look_up"), tools=[look_up], runtime=runtime)
    await box.start()
    process = await box.exec(["python3", "-c", CALL + "import time; time.sleep(60)", '[["look_up", {"city": "Ulm"}]]'])
    with anyio.fail_after(20):
        while box.state != "failed":  # noqa: ASYNC110  # no event tells of it
            await anyio.sleep(0.01)
    await process.kill()
    await box.destroy()


def test_blocking_callers_have_tools_too() -> None:
    numbers: list[int] = []

    @Tool
    def note(number: int) -> int:
        """Note a number."""
        numbers.append(number)
        return len(numbers)

    @Tool
    async def pause(seconds: float) -> str:
        """Wait."""
        await anyio.sleep(seconds)
        return "waited"

    code = "import jubako_tools as t; print([t.call('note', number=n) for n in (5, 7)], t.call('pause', seconds=0.01))"
    with Sandbox(boundary="process", policy=Policy().with_tools("note", "pause"), tools=[note, pause]) as box:
        assert box.run(code, check=True).stdout == "[1, 2] waited\n"
    assert numbers == [5, 7]
