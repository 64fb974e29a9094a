"""Calls of host functions: allow-list, budgets, limits, what goes back inside, what is recorded."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from jubako.errors import JubakoError, LedgerError, ToolError
from jubako.events import LimitReached, ToolCalled
from jubako.policy import ToolGrant
from jubako.runtime import toolbox as module
from jubako.runtime.toolbox import Toolbox
from jubako.runtime.tools import Tool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jubako.events import EventData

pytestmark = pytest.mark.anyio

SECRET = "postgres://user:hunter2@10.0.0.7/db"


@dataclass
class Bench:
    """A toolbox, its events, and what it said of failures."""

    box: Toolbox = field(init=False)
    events: list[EventData] = field(default_factory=list)
    failures: list[JubakoError] = field(default_factory=list)
    broken: bool = False

    def take(self, data: EventData) -> None:
        if self.broken:
            msg = "the disk is full"
            raise LedgerError(msg)
        self.events.append(data)

    async def ask(self, tool: str, /, **arguments: object) -> Any:
        return json.loads(await self.box.call(tool, json.dumps(arguments).encode()))

    async def error(self, tool: str, /, **arguments: object) -> str:
        answer = await self.ask(tool, **arguments)
        assert list(answer) == ["error"]
        return str(answer["error"]["code"])

    @property
    def calls(self) -> list[tuple[str, str, int]]:
        return [(item.tool, item.verdict, item.count) for item in self.events if isinstance(item, ToolCalled)]


def bench(
    *functions: Callable[..., Any], grant: ToolGrant | None = None, spent: Mapping[str, int] | None = None
) -> Bench:
    tools = [Tool(item) for item in functions]
    seat = Bench()
    grants = {tool.name: grant or ToolGrant() for tool in tools}
    seat.box = Toolbox(tools, grants, seat.take, seat.failures.append)
    seat.box.spend({"gone": 7, **(spent or {})})
    return seat


def double(number: int) -> int:
    """Double a number."""
    return 2 * number


async def echo(value: dict[str, Any]) -> dict[str, Any]:
    """Return it."""
    await anyio.lowlevel.checkpoint()
    return value


async def test_a_call_is_answered_and_recorded() -> None:
    seat = bench(double, echo)
    assert await seat.ask("double", number=4) == {"result": 8}
    assert await seat.ask("echo", value={"a": [None, "é\0"]}) == {"result": {"a": [None, "é\0"]}}
    first = seat.events[0]
    assert isinstance(first, ToolCalled)
    assert first.model_dump() | {"seconds": 0} == {
        "type": "tool.called", "tool": "double", "verdict": "answered", "seconds": 0, "bytes_in": 13,
        "bytes_out": 12, "count": 1,
    }  # fmt: skip
    assert first.seconds >= 0
    assert "é" not in repr(seat.events)  # neither arguments nor answers are recorded
    assert seat.box.spent == {"double": 1, "echo": 1}
    assert [tool.name for tool in seat.box.tools] == ["double", "echo"]


@pytest.mark.parametrize(
    ("name", "recorded"),
    [("send", "send"), ("Double", ""), ("", ""), ("double\n", ""), ("__init__", ""), ("x" * 100_000, ""), ("é", "")],
)
async def test_what_is_not_granted_is_denied(name: str, recorded: str) -> None:
    seat = bench(double)
    answer = await seat.ask(name, number=1)
    assert answer == {
        "error": {"code": "tool-denied", "message": "the policy grants no tool of that name", "hint": "granted: double"}
    }
    assert seat.calls == [(recorded, "denied", 1)]


async def test_a_tool_without_a_grant_and_a_grant_without_a_tool_are_denied() -> None:
    events: list[EventData] = []
    box = Toolbox([Tool(double)], {"send": ToolGrant()}, events.append, print)
    for name in ("double", "send"):
        assert json.loads(await box.call(name, b'{"number":1}'))["error"]["code"] == "tool-denied"
    assert box.spent == {}


async def test_wrong_arguments_are_explained_and_cost_nothing() -> None:
    seat = bench(double, grant=ToolGrant(calls=1))
    answer = await seat.ask("double", number="4", more=1)
    assert answer["error"]["code"] == "tool-arguments"
    assert answer["error"]["problems"] == [
        {"field": "number", "message": "Input should be a valid integer"},
        {"field": "more", "message": "Extra inputs are not permitted"},
    ]
    assert await seat.ask("double", number=1) == {"result": 2}
    assert seat.calls == [("double", "invalid", 1), ("double", "answered", 1)]


async def test_sizes_are_limited_both_ways() -> None:
    def repeat(text: str, times: int) -> str:
        return text * times

    seat = bench(repeat, grant=ToolGrant(request_bytes=64, response_bytes=64))
    assert await seat.ask("repeat", text="x", times=62) == {"result": "x" * 62}
    assert await seat.error("repeat", text="x", times=63) == "tool-response-too-large"
    assert await seat.error("repeat", text="x" * 64, times=1) == "tool-request-too-large"
    assert seat.calls == [("repeat", "answered", 1), ("repeat", "too-large", 1), ("repeat", "too-large", 1)]
    assert seat.box.spent == {"repeat": 2}


async def test_the_budget_is_exact_under_concurrency() -> None:
    ran = 0

    async def slow(number: int) -> int:
        nonlocal ran
        ran += 1
        await anyio.sleep(0.01)
        return number

    seat = bench(slow, grant=ToolGrant(calls=25))
    answers: list[Any] = []

    async def one(number: int) -> None:
        answers.append(await seat.ask("slow", number=number))

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(one, number)
    assert ran == 25
    assert sum("result" in item for item in answers) == 25
    assert {item["error"]["code"] for item in answers if "error" in item} == {"tool-over-budget"}
    assert [item for item in seat.events if isinstance(item, LimitReached)] == [LimitReached(control="tool.calls")]
    assert seat.calls.count(("slow", "answered", 1)) == 25


async def test_a_child_has_what_its_parent_had_left() -> None:
    parent = bench(double, grant=ToolGrant(calls=3))
    await parent.ask("double", number=1)
    child = bench(double, grant=ToolGrant(calls=3), spent=parent.box.spent)
    assert [next(iter(await child.ask("double", number=1))) for _ in range(3)] == ["result", "result", "error"]


async def test_failures_tell_their_type_and_no_more() -> None:
    def connect(x: int) -> None:
        raise ConnectionError(SECRET)

    async def leave(x: int) -> None:
        raise SystemExit(SECRET)

    def unwritable(x: int) -> object:
        return threading.Lock()

    def endless(x: int) -> object:
        knot: list[Any] = []
        knot.append(knot)
        return knot

    def deep(x: int) -> object:
        nested: list[Any] = []
        for _ in range(100_000):
            nested = [nested]
        return nested

    def lone(x: int) -> str:
        return "\ud800"

    seat = bench(connect, leave, unwritable, endless, deep, lone)
    for name, kind in (
        ("connect", "ConnectionError"),
        ("leave", "SystemExit"),
        ("unwritable", "PydanticSerializationError"),
        ("endless", "PydanticSerializationError"),
        ("deep", "PydanticSerializationError"),
        ("lone", "PydanticSerializationError"),
    ):
        assert await seat.ask(name, x=1) == {"error": {"code": "tool-failed", "message": kind}}
    assert "hunter2" not in repr(seat.events)
    assert {verdict for _, verdict, _ in seat.calls} == {"failed"}


async def test_a_tool_may_say_what_went_wrong() -> None:
    def look_up(city: str) -> str:
        msg = f"no city is named {city}" + "!" * 10_000
        raise ToolError(msg, hint="ask for Ulm") from OSError(SECRET)

    answer = await bench(look_up).ask("look_up", city="Atlantis")
    assert answer["error"]["hint"] == "ask for Ulm"
    assert answer["error"]["message"].startswith("no city is named Atlantis!")
    assert len(answer["error"]["message"]) == 4096


async def test_time_runs_out_for_asynchronous_functions() -> None:
    ended: list[str] = []

    async def wait(x: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    seat = bench(wait, grant=ToolGrant(seconds=0.05))
    assert await seat.ask("wait", x=1) == {"error": {"code": "tool-timed-out", "message": "no answer within 0.05 s"}}
    assert ended == ["cancelled"]
    assert seat.calls == [("wait", "timed-out", 1)]


async def test_threads_that_overstay_keep_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_THREADS", 2)
    go = threading.Event()
    done: list[int] = []

    def stuck(x: int) -> int:
        go.wait(20)
        done.append(x)
        return x

    seat = bench(stuck, grant=ToolGrant(seconds=0.1))
    try:
        assert [await seat.error("stuck", x=1) for _ in range(3)] == ["tool-timed-out"] * 3
    finally:
        go.set()
    assert await seat.ask("stuck", x=5) == {"result": 5}  # as soon as one of them has ended
    with anyio.fail_after(10):
        while len(done) < 3:  # noqa: ASYNC110  # threads
            await anyio.sleep(0.01)
    assert sorted(done) == [1, 1, 5]  # the third waited for a thread and never began


async def test_too_many_at_once_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    go = anyio.Event()

    async def wait(x: int) -> int:
        await go.wait()
        return x

    seat = bench(wait)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(seat.ask, "wait", x=1))
        tasks.start_soon(partial(seat.ask, "wait", x=2))
        await anyio.wait_all_tasks_blocked()
        assert await seat.error("wait", x=3) == "tool-busy"
        go.set()
    assert seat.calls == [("wait", "busy", 1), ("wait", "answered", 1), ("wait", "answered", 1)]


async def test_a_cancelled_call_is_recorded() -> None:
    async def wait(x: int) -> None:
        await anyio.sleep_forever()

    seat = bench(wait)
    with anyio.move_on_after(0.02):
        await seat.ask("wait", x=1)
    assert seat.calls == [("wait", "cancelled", 1)]


async def test_the_end_cancels_and_denies_and_says_nothing_more() -> None:
    async def wait(x: int) -> None:
        await anyio.sleep_forever()

    seat = bench(wait)
    answers: list[Any] = []

    async def one() -> None:
        answers.append(await seat.ask("wait", x=1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        await seat.box.aclose()
    assert answers == [{"error": {"code": "tool-denied", "message": "the sandbox is ending"}}]
    assert seat.calls == [("wait", "cancelled", 1)]
    assert await seat.error("wait", x=1) == "tool-denied"
    await seat.box.aclose()
    assert len(seat.events) == 1


async def test_refused_calls_can_not_flood_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seat = bench(double)
    for number in range(1000):
        await seat.box.call(f"x{number}", b"{}")
        await seat.box.call("double", b"{}")
    assert len(seat.calls) == 20
    now += 2.0
    await seat.box.call("y", b"{}")
    await seat.box.call("double", b"{}")
    await seat.box.call("z", b"{}")
    assert seat.calls[20:] == [("", "denied", 991), ("double", "invalid", 991)]
    await seat.box.aclose()
    assert seat.calls[22:] == [("", "denied", 1)]
    folded = [item for item in seat.events if isinstance(item, ToolCalled) and item.count == 991]
    assert [item.bytes_in for item in folded] == [991 * 2] * 2
    assert sum(count for _, _, count in seat.calls) == 2003  # none is lost


async def test_what_can_not_be_recorded_ends_everything() -> None:
    seat = bench(double)
    seat.broken = True
    assert await seat.ask("double", number=1) == {"result": 2}
    assert [error.code for error in seat.failures] == ["ledger-error"]
    assert await seat.error("double", number=1) == "tool-denied"
    await seat.box.aclose()


async def test_a_slow_thread_does_not_hold_the_event_loop() -> None:
    def sleep(x: int) -> int:
        time.sleep(0.2)
        return x

    seat = bench(sleep)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.01)
            ticks += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        assert await seat.ask("sleep", x=1) == {"result": 1}
        tasks.cancel_scope.cancel()
    assert ticks >= 2
