"""TCP connections to the guest's own loopback, through a real agent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.errors import GuestConnectionError, InvalidRequestError

if TYPE_CHECKING:
    from conftest import Guest, OpenGuest
    from jubako.guest import GuestProcess

pytestmark = pytest.mark.anyio

SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET6 if sys.argv[1] == "::1" else socket.AF_INET)
s.bind((sys.argv[1], 0)); s.listen(8)
print(s.getsockname()[1], flush=True)
while True:
    c, _ = s.accept()
    total = 0
    while data := c.recv(65536):
        total += len(data)
        c.sendall(data)
    c.sendall(b"end %d" % total)
    c.close()
"""


async def serve(guest: Guest, host: str) -> tuple[GuestProcess, int]:
    process = await guest.start("python3", "-I", "-S", "-c", SERVER, host)
    return process, int(await process.stdout.receive())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_echo_with_half_close(open_guest: OpenGuest, host: str) -> None:
    async with open_guest() as guest:
        process, port = await serve(guest, host)
        for size in (1, 3_000_000):
            stream = await guest.session.connect(port)
            data = os.urandom(size)
            seen = bytearray()
            async with anyio.create_task_group() as tasks:

                async def send() -> None:
                    await stream.send(data)  # noqa: B023  # runs within the loop's turn
                    await stream.send_eof()  # noqa: B023

                tasks.start_soon(send)
                async for part in stream:
                    seen += part
            assert bytes(seen) == data + b"end %d" % size
            with pytest.raises(anyio.ClosedResourceError):
                await stream.send(b"x")
            await stream.aclose()
        await process.kill()


async def test_refused(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process, port = await serve(guest, "127.0.0.1")
        await process.kill()
        with pytest.raises(GuestConnectionError) as caught:
            await guest.session.connect(port)
        assert caught.value.details["port"] == port
        for number in (0, 65536, -1):
            with pytest.raises(InvalidRequestError):
                await guest.session.connect(number)


async def test_server_dies(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        process, port = await serve(guest, "127.0.0.1")
        stream = await guest.session.connect(port)
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await process.kill()
        with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        with anyio.fail_after(5), pytest.raises(anyio.BrokenResourceError):
            await stream.send(bytes(10_000_000))
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
