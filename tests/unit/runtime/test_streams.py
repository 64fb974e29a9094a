from __future__ import annotations

import codecs
import math
from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import EndOfStream
from anyio.abc import ByteReceiveStream
from hypothesis import given, settings
from hypothesis import strategies as st

from jubako.errors import InstanceLostError
from jubako.runtime import streams
from jubako.runtime.attendance import Attendance, attend
from jubako.runtime.streams import AsyncReader

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio


class Pieces(ByteReceiveStream):
    """Gives these pieces, then the end; an error instead of a piece is raised."""

    def __init__(self, pieces: Sequence[bytes | Exception], *, endless: bool = False) -> None:
        self._pieces = deque(pieces)
        self._endless = endless

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self._pieces:
            if self._endless:
                await anyio.sleep(math.inf)
            raise EndOfStream
        piece = self._pieces.popleft()
        if isinstance(piece, Exception):
            raise piece
        if len(piece) > max_bytes:
            self._pieces.appendleft(piece[max_bytes:])
        return piece[:max_bytes]

    async def aclose(self) -> None:
        self._pieces.clear()


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(places) if start < end]


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=8), limit=st.integers(4, 50))
def test_lines_are_the_text_however_the_bytes_arrive(data: bytes, cuts: list[int], limit: int) -> None:
    async def main() -> None:
        reader = AsyncReader(Pieces(chunks_of(data, cuts)))
        lines = [line async for line in reader]
        expected = codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=True)
        assert "".join(lines) == expected
        assert all(len(line.encode()) <= limit * 3 + 3 for line in lines)
        assert all("\n" not in line[:-1] for line in lines)

    original = streams.LINE_LIMIT
    streams.LINE_LIMIT = limit  # type: ignore[misc]  # small enough for hypothesis to reach it
    try:
        anyio.run(main)
    finally:
        streams.LINE_LIMIT = original  # type: ignore[misc]


@settings(max_examples=80, deadline=None)
@given(
    data=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    sizes=st.lists(st.integers(1, 40), min_size=1),
)
def test_bytes_are_never_lost_or_doubled(data: bytes, cuts: list[int], sizes: list[int]) -> None:
    async def main() -> None:
        reader = AsyncReader(Pieces(chunks_of(data, cuts)))
        taken = b""
        turn = 0
        while piece := await reader.receive(sizes[turn % len(sizes)]):
            assert len(piece) <= sizes[turn % len(sizes)]
            taken += piece
            turn += 1
        assert taken == data
        assert await reader.receive() == b""

    anyio.run(main)


async def test_a_drain_and_a_reader_share_one_stream() -> None:
    pieces = [bytes([number]) * 10 for number in range(100)]
    reader = AsyncReader(Pieces(pieces))
    taken = bytearray()

    async def read() -> None:
        while piece := await reader.receive():
            taken.extend(piece)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.drain)
        tasks.start_soon(read)
    assert bytes(taken) == b"".join(pieces)


async def test_bytes_after_a_line_are_the_rest() -> None:
    reader = AsyncReader(Pieces([b"first\nsec", b"ond\nthird"]))
    assert await reader.readline() == "first\n"
    assert await reader.receive(3) == b"sec"
    assert await reader.readline() == "ond\n"
    assert await reader.read() == "third"
    assert await reader.readline() == ""


async def test_loss_of_the_sandbox_reaches_the_reader() -> None:
    reader = AsyncReader(Pieces([b"some", InstanceLostError("gone")]))
    assert await reader.receive() == b"some"
    with pytest.raises(InstanceLostError):
        await reader.receive()


async def test_after_the_end_a_silent_stream_is_left_soon_but_a_slow_taker_is_waited_for() -> None:
    taken: list[bytes] = []
    attendance = Attendance(0.05)

    async def take(chunk: bytes) -> None:
        await anyio.sleep(0.1)  # longer than the patience with a silent stream
        taken.append(chunk)

    async def wait() -> str:
        await anyio.sleep(0.01)
        attendance.end()
        return "status"

    reader = AsyncReader(Pieces([b"a", b"b", b"c"], endless=True))
    with anyio.fail_after(5):
        status = await attend(wait, lambda: attendance.pump(reader, take), cancel=False)
    assert (status, taken) == ("status", [b"a", b"b", b"c"])


async def test_errors_come_out_alone() -> None:
    async def wait() -> None:
        await anyio.sleep(math.inf)

    async def lost() -> None:
        raise InstanceLostError("gone")

    async def broken() -> None:
        raise BrokenPipeError

    with pytest.raises(InstanceLostError):
        await attend(wait, lost)
    with pytest.raises(BrokenPipeError):
        await attend(wait, broken, cancel=False)
    with pytest.raises(InstanceLostError):
        await attend(lost, wait, cancel=False)


async def test_input_is_left_at_the_end() -> None:
    attendance = Attendance(0)
    reached: list[str] = []

    async def feed() -> None:
        with attendance.until_end():
            await anyio.sleep(math.inf)
        reached.append("left")

    async def wait() -> None:
        await anyio.sleep(0.01)
        attendance.end()

    await attend(wait, feed, cancel=False)
    with attendance.until_end():
        await anyio.sleep(math.inf)
    assert reached == ["left"]
