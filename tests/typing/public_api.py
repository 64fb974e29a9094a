"""What type checkers make of the public API. Never run: the gate is that mypy accepts it."""

from __future__ import annotations

from typing import Any, assert_type

from jubako import AsyncSandbox, Policy, RunResult, Runtime, Sandbox, Snapshot, Tool, ToolGrant


def add(first: int, second: int = 0) -> int:
    return first + second


async def later(seconds: float) -> None:
    del seconds


class Own(Sandbox):
    """Callers may derive."""


def blocking(box: Sandbox) -> None:
    assert_type(box.snapshot(), Snapshot)
    assert_type(box.snapshot("name"), Snapshot)
    assert_type(box.fork(3), list[Sandbox])
    assert_type(Sandbox.restore("name", policy="default", ttl=5, tools=[add]), Sandbox)
    assert_type(Own.restore(box.snapshot()), Own)
    assert_type(box.run_file("a.py", "x", "y", check=True), RunResult)
    assert_type(box.command(code="1", language="js"), tuple[str, ...])
    assert_type(box.policy, Policy)
    assert_type(box.preload, tuple[str, ...])
    Sandbox(preload=["numpy"], tools=[add, later, Tool(add, name="sum")])


async def asynchronous(box: AsyncSandbox, runtime: Runtime) -> None:
    assert_type(await box.snapshot(), Snapshot)
    assert_type(await box.fork(2, ttl=1.5), list[AsyncSandbox])
    assert_type(AsyncSandbox.restore("name", runtime=runtime), AsyncSandbox)
    assert_type(runtime.snapshots.list(), list[Snapshot])


def tools() -> None:
    tool = Tool(add)
    assert_type(tool.schema, dict[str, object])
    assert_type(tool(1, second=2), Any)
    assert_type(Policy().with_tools("add", "later", grant=ToolGrant(calls=1)), Policy)
