"""A closed stream keeps its descriptor until whoever waited on it has gone."""

from __future__ import annotations

import os
import socket

import anyio
import pytest
from anyio.lowlevel import checkpoint

from jubako.guest.stream import SocketStream

pytestmark = pytest.mark.anyio


async def test_number_of_a_closed_stream_is_not_given_away_under_its_reader() -> None:
    ours, theirs = socket.socketpair()
    stream = SocketStream(ours)
    ended: list[str] = []

    async def read() -> None:
        try:
            await stream.receive()
        except (anyio.ClosedResourceError, anyio.EndOfStream):
            ended.append("closed")

    async def wait(descriptor: int) -> None:
        await anyio.wait_readable(descriptor)

    with theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            number = ours.fileno()
            stream.close()
            # A pipe that is made at once gets another number, so its waiter can't be forgotten.
            reader, writer = os.pipe()
            assert number not in {reader, writer}
            with anyio.fail_after(5):
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(wait, reader)
                    await checkpoint()
                    os.write(writer, b"x")
            os.close(reader)
            os.close(writer)
    assert ended == ["closed"]
    assert ours.fileno() == -1


async def test_closing_without_a_reader_closes_at_once() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        stream = SocketStream(ours)
        stream.close()
        stream.close()
        assert ours.fileno() == -1
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
