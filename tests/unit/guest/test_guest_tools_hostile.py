"""A guest that misuses the streams on which programs call the host."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from test_guest_hostile import END, HELLO, READY, FakeGuest, Hooks

from jubako.errors import ProtocolError
from jubako.guest import GuestSession, SessionConfig, SessionLimits, SocketStream
from jubako.guest.wire import Message, Rule, encode, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


class Link:
    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.cancelled = 0

    async def call(self, tool: str, arguments: bytes) -> bytes:
        self.calls.append((tool, arguments))
        try:
            await anyio.sleep(60 if tool == "slow" else 0)
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        return b"x" * 200_000 if tool == "big" else b'{"result": 1}'


@asynccontextmanager
async def hostile(**limits: int) -> AsyncIterator[tuple[GuestSession, FakeGuest, Hooks, Link]]:
    theirs, ours = socket.socketpair()
    guest, hooks, link = FakeGuest(theirs), Hooks(), Link()
    config = SessionConfig(limits=SessionLimits(window=65536, **limits))  # type: ignore[arg-type]  # numbers only
    try:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                sessions: list[GuestSession] = []

                async def open_session() -> None:
                    stream = SocketStream(ours)
                    sessions.append(
                        await GuestSession.open(stream, tasks=tasks, config=config, hooks=hooks, tools=link)
                    )

                async with anyio.create_task_group() as opening:
                    opening.start_soon(open_session)
                    await guest.send(HELLO)
                    await guest.until(Message.CONFIG)
                    await guest.send(READY)
                yield sessions[0], guest, hooks, link
                await sessions[0].aclose()
    finally:
        guest.stream.close()
        ours.close()


def call(tool: bytes, size: int, ident: int = 1) -> bytes:
    return frame(Message.CALL, ident, encode(Message.CALL, (tool, size)))


def data(size: int, ident: int = 1) -> bytes:
    return frame(Message.DATA, ident, bytes(size))


def end(kind: int, errno: int = 0, ident: int = 1) -> bytes:
    return frame(Message.END, ident, encode(Message.END, (kind, errno, "")))


def credit(amount: int, ident: int = 1) -> bytes:
    return frame(Message.CREDIT, ident, encode(Message.CREDIT, (0, amount)))


CASES = [
    (Rule.STREAM_STATE, data(1)),
    (Rule.STREAM_STATE, call(b"slow", 0) * 2),
    (Rule.STREAM_STATE, call(b"slow", 5) + data(2) + call(b"slow", 1)),
    (Rule.STREAM_STATE, end(0)),
    (Rule.STREAM_STATE, end(1, 32)),
    (Rule.STREAM_STATE, end(5)),
    (Rule.STREAM_STATE, call(b"slow", 0) + end(0)),
    (Rule.STREAM_STATE, call(b"slow", 0) + end(2)),
    (Rule.STREAM_STATE, call(b"slow", 9) + credit(1)),
    (Rule.STREAM_STATE, call(b"slow", 0) + frame(Message.EOF, 1, b"\0")),
    (Rule.DATA_LENGTH, call(b"slow", 5) + data(6)),
    (Rule.DATA_LENGTH, call(b"slow", 0) + data(1)),
    (Rule.DATA_EMPTY, call(b"slow", 5) + data(0)),
    (Rule.MESSAGE_RANGE, frame(Message.CALL, 1, b"\0\0\0\1x\0\x10\0\1")),
    (Rule.MESSAGE_RANGE, frame(Message.CALL, 1, b"\0\0\1\1" + bytes(257) + bytes(4))),
    (Rule.FRAME_DIRECTION, frame(Message.ANSWER, 1, bytes(4))),
    (Rule.FRAME_DIRECTION, frame(Message.TOOLS, 1)),
    (Rule.STREAM_UNKNOWN, call(b"slow", 0, ident=2)),
]


@pytest.mark.parametrize(("rule", "frames"), CASES, ids=[f"{rule}-{at}" for at, (rule, _) in enumerate(CASES)])
async def test_each_misuse_ends_the_sandbox(rule: Rule, frames: bytes) -> None:
    async with hostile(tool_calls=1) as (session, guest, hooks, link):
        await guest.until(Message.TOOLS)
        await guest.send(frames)
        await session.closed.wait()
        assert isinstance(session.failure, ProtocolError)
        assert session.failure.details["rule"] == rule
        assert (hooks.violations, hooks.kills) == ([rule], 1)
        await guest.rest()
    assert link.cancelled == len(link.calls)


async def test_an_answer_needs_credit() -> None:
    async with hostile(tool_calls=1) as (session, guest, hooks, _):
        ident = await guest.until(Message.TOOLS)
        await guest.send(call(b"big", 0, ident))
        await guest.until(Message.ANSWER)
        received = 0
        with anyio.move_on_after(0.2):
            while True:
                received += len(await guest.stream.receive())
        assert received <= 65536 + 9 * 20
        await guest.send(credit(65537, ident))
        await session.closed.wait()
        assert hooks.violations == [Rule.CREDIT_GRANT]


async def test_calls_that_never_end_their_arguments_cost_one_stream_each() -> None:
    async with hostile(tool_calls=3) as (session, guest, hooks, link):
        for ident in (1, 2, 3):
            await guest.send(call(b"slow", 1048576, ident), data(65536, ident))
        await anyio.sleep(0.1)
        assert not link.calls
        assert len(session.machine.streams) == 3
        await guest.send(call(b"slow", 0, 4))
        await session.closed.wait()
        assert hooks.violations == [Rule.STREAM_UNKNOWN]


async def test_a_flood_of_calls_that_are_given_up_is_slowed_down() -> None:
    """Calls that end at once, again and again: the host keeps to its rate and opens no more streams."""
    async with hostile(tool_calls=2, tool_rate=10) as (session, guest, hooks, link):
        highest = 0
        with anyio.move_on_after(0.55):
            while True:
                highest = await guest.until(Message.TOOLS)
                await guest.send(call(b"slow", 1, highest), end(1, 32, highest))
        assert 10 < highest < 30
        assert not link.calls
        assert not hooks.violations
        assert not session.closed.is_set()


async def test_a_guest_that_refuses_is_asked_no_more() -> None:
    async with hostile(tool_calls=2) as (session, guest, hooks, _):
        await guest.send(end(2, ident=1), end(2, ident=2))
        await anyio.sleep(0.05)
        assert not session.machine.streams
        assert not hooks.violations


async def test_an_answer_to_a_call_that_ended_meanwhile_goes_nowhere() -> None:
    async with hostile(tool_calls=1) as (session, guest, hooks, link):
        await guest.until(Message.TOOLS)
        await guest.send(call(b"slow", 0), end(1, 32))
        second = await guest.until(Message.TOOLS)
        assert second == 2
        # The first one's task may not have run yet, or was cancelled: either way nothing is sent for it.
        assert link.cancelled == len(link.calls)
        await guest.send(call(b"quick", 2, second), data(2, second))
        assert await guest.until(Message.ANSWER) == second
        await guest.send(frame(Message.END, second, END))
        assert await guest.until(Message.TOOLS) == 3
        assert not hooks.violations
        assert not session.closed.is_set()
