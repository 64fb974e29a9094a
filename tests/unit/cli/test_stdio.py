"""Standard streams: sanitised on terminals, never blocking the loop."""

from __future__ import annotations

import os
import pty
import tty
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.cli._stdio import Output, read_input

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

HOSTILE = "plain\tünï\r\n\x1b]0;title\x07\x1b[2J\u202egnp\x9b".encode() + b"\xff\n"


async def read_all(descriptor: int, into: bytearray) -> None:
    while True:
        await anyio.wait_readable(descriptor)
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # a terminal whose other side is closed
            return
        if not data:
            return
        into.extend(data)


@pytest.mark.parametrize("raw", [False, True])
async def test_a_terminal_is_obeyed_only_by_us(*, raw: bool) -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    shown = bytearray()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_all, ours, shown)
        output = Output(theirs, raw=raw)
        for start in range(0, len(HOSTILE), 3):  # cut within characters
            await output.write(HOSTILE[start : start + 3])
        os.close(theirs)
    os.close(ours)
    if raw:
        assert bytes(shown) == HOSTILE
    else:
        assert shown.decode() == "plain\tünï\r\n\\e]0;title\\x07\\e[2J\\u202egnp\\x9b\ufffd\n"


async def test_a_slow_reader_of_a_pipe_does_not_stop_the_loop() -> None:
    read, write = os.pipe()
    output = Output(write, raw=False)
    ticks = 0
    shown = bytearray()

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.01)
            ticks += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        with anyio.move_on_after(0.2) as scope:
            await output.write(b"x" * 1_000_000)  # more than any pipe holds
        assert scope.cancelled_caught
        assert ticks >= 2
        os.close(write)
        await read_all(read, shown)
        tasks.cancel_scope.cancel()
    os.close(read)
    assert 4096 <= len(shown) < 1_000_000


async def test_pipes_and_files_get_every_byte(tmp_path: Path) -> None:
    file = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    await Output(file, raw=False).write(HOSTILE * 1000)
    os.close(file)
    assert await anyio.Path(tmp_path / "out").read_bytes() == HOSTILE * 1000
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        await Output(write, raw=False).write(b"x")
    os.close(write)


async def collected(descriptor: int) -> bytes:
    return b"".join([piece async for piece in read_input(descriptor)])


async def test_input_from_pipe_file_and_nothing(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"from a pipe")
    os.close(write)
    assert await collected(read) == b"from a pipe"
    os.close(read)
    await anyio.Path(tmp_path / "in").write_bytes(b"from a file" * 20_000)
    file = os.open(tmp_path / "in", os.O_RDONLY)
    assert await collected(file) == b"from a file" * 20_000
    os.close(file)
    null = os.open(os.devnull, os.O_RDONLY)
    assert await collected(null) == b""
    os.close(null)
    assert await collected(file) == b""  # closed by now
