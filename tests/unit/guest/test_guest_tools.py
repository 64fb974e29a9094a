"""Calls of programs inside to functions of the host, with the real agent."""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.guest import SessionConfig, SessionLimits

if TYPE_CHECKING:
    from conftest import OpenGuest

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


class Link:
    """What the runtime would do, in the test's hands."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.now = 0
        self.most = 0
        self.cancelled = 0
        self.gate: anyio.Event | None = None

    async def call(self, tool: str, arguments: bytes) -> bytes:
        self.calls.append((tool, arguments))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if tool == "raise":
                raise ZeroDivisionError
            if tool == "wait":
                assert self.gate is not None
                await self.gate.wait()
            if tool == "big":
                return json.dumps({"result": "x" * json.loads(arguments)["size"]}).encode()
            if tool == "huge":
                return bytes(33554433)
            if tool == "nothing":
                return b""
            if tool == "refuse":
                return b'{"error": {"code": "tool-unknown", "message": "no such function"}}'
            return json.dumps({"result": json.loads(arguments)}).encode()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        finally:
            self.now -= 1


CODE = """
import json, sys
import jubako_tools
try:
    result = jubako_tools.call(sys.argv[1], **json.loads(sys.argv[2]))
except jubako_tools.ToolError as error:
    print("error", error.code, error.message)
else:
    print(json.dumps(result, sort_keys=True) if len(str(result)) < 1000 else len(result))
"""

RAW = """
import os, socket, sys
name = os.environ["JUBAKO_TOOLS"]
def connect():
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(chr(0) + name[1:])
    return stream
def frame(data):
    return len(data).to_bytes(4, "big") + data
def answer(stream):
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        part = stream.recv(65536)
        if not part:
            return b"closed " + data
        data += part
    return data[4:]
"""


async def call(guest: object, tool: str, **arguments: object) -> str:
    done = await guest.run("python3", "-c", CODE, tool, json.dumps(arguments))  # type: ignore[attr-defined]  # a Guest
    assert done.err == b""
    return str(done.out.decode()).strip()


async def test_a_call_goes_out_and_comes_back(open_guest: OpenGuest) -> None:
    link = Link()
    async with open_guest(tools=link) as guest:
        assert "tools" in guest.session.hello.features
        assert json.loads(await call(guest, "echo", a=1, b="\u00e9\u4e2d\U0001f600", c=[None, 1.5])) == {
            "a": 1,
            "b": "\u00e9\u4e2d\U0001f600",
            "c": [None, 1.5],
        }
        assert link.calls[0][0] == "echo"
        assert json.loads(link.calls[0][1])["b"] == "\u00e9\u4e2d\U0001f600"
        assert await call(guest, "refuse") == "error tool-unknown no such function"
        assert await call(guest, "echo") == "{}"


async def test_a_failing_link_fails_one_call(open_guest: OpenGuest, caplog: pytest.LogCaptureFixture) -> None:
    async with open_guest(tools=Link()) as guest:
        with caplog.at_level(logging.CRITICAL, "jubako.guest.tools"):
            assert await call(guest, "raise") == "error tool-failed the function failed on the host"
        assert await call(guest, "huge") == "error tool-response-too-large the function returned too much"
        assert await call(guest, "nothing") == "error tool-response-too-large the function returned too much"
        assert await call(guest, "echo", a=1) == '{"a": 1}'


async def test_large_arguments_and_answers(open_guest: OpenGuest) -> None:
    """Both go in parts under credit; what is over the bound is refused and the connection goes on."""
    link = Link()
    code = (
        RAW
        + """
stream = connect()
for size in (1048576, 1048577, 1048576 + 300, 3000000, 5):
    stream.sendall(frame(b"echo\\0" + (b'"' + b"x" * (size - 2) + b'"')))
    got = answer(stream)
    print(len(got) if len(got) > 1000 else got.decode())
"""
    )
    async with open_guest(tools=link) as guest:
        done = await guest.run("python3", "-c", code)
        refused = (
            f'{{"error":{{"code":"tool-request-too-large","message":"the arguments are over {MIB} bytes of JSON"}}}}'
        )
        assert done.out.decode().splitlines() == [str(MIB + 12), refused, refused, refused, '{"result": "xxx"}']
        assert [len(arguments) for _, arguments in link.calls] == [MIB, 5]
        assert await call(guest, "big", size=5_000_000) == "5000000"


async def test_malformed_requests_are_answered(open_guest: OpenGuest) -> None:
    link = Link()
    code = (
        RAW
        + """
stream = connect()
for data in (b"", b"no separator", b"\\0{}", b"n" * 257 + b"\\0{}", b"\\xff\\0{}"):
    stream.sendall(frame(data))
    print(answer(stream).decode())
"""
    )
    async with open_guest(tools=link) as guest:
        done = await guest.run("python3", "-c", code)
        invalid = '{"error":{"code":"invalid-request","message":"a request is a name, a NUL byte and JSON"}}'
        assert done.out.decode().splitlines() == [invalid] * 4 + ['{"result": {}}']
        assert link.calls == [("\ufffd", b"{}")]


async def test_calls_run_beside_each_other_up_to_the_limit(open_guest: OpenGuest) -> None:
    link = Link()
    link.gate = anyio.Event()
    code = (
        RAW
        + """
streams = [connect() for _ in range(6)]
for number, stream in enumerate(streams):
    stream.sendall(frame(b"wait\\0" + str(number).encode()))
print("asked", flush=True)
for stream in streams:
    print(answer(stream).decode())
"""
    )
    async with open_guest(tools=link, limits=SessionLimits(tool_calls=4)) as guest:
        process = await guest.start("python3", "-c", code)
        assert await process.stdout.receive() == b"asked\n"
        with anyio.fail_after(10):
            while len(link.calls) < 4:  # noqa: ASYNC110  # another process asks
                await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        assert len(link.calls) == 4
        link.gate.set()
        lines = b""
        async for part in process.stdout:
            lines += part
        assert lines.decode().splitlines() == [f'{{"result": {number}}}' for number in range(6)]
        assert link.most == 4


async def test_calls_come_at_a_bounded_rate(open_guest: OpenGuest) -> None:
    """After the burst, each call waits for its share of a second: 20 more take at least one."""
    link = Link()
    code = """
import jubako_tools, time
start = time.monotonic()
for number in range(44):
    jubako_tools.call("echo")
print(time.monotonic() - start)
"""
    async with open_guest(tools=link, limits=SessionLimits(tool_calls=2, tool_rate=20)) as guest:
        done = await guest.run("python3", "-c", code)
        assert float(done.out) > 0.9
        assert len(link.calls) == 44


async def test_a_dead_caller_cancels_its_call(open_guest: OpenGuest) -> None:
    link = Link()
    link.gate = anyio.Event()
    code = (
        RAW
        + """
stream = connect()
stream.sendall(frame(b"wait\\0{}"))
import time; time.sleep(60)
"""
    )
    async with open_guest(tools=link, limits=SessionLimits(tool_calls=1)) as guest:
        process = await guest.start("python3", "-c", code)
        with anyio.fail_after(10):
            while not link.calls:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            await process.kill()
            while not link.cancelled:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert await call(guest, "echo", a=1) == '{"a": 1}'


async def test_a_caller_that_shuts_its_sending_half_has_given_up(open_guest: OpenGuest) -> None:
    """Not every kernel tells half an end from a whole one, so they are the same everywhere."""
    link = Link()
    link.gate = anyio.Event()
    code = (
        RAW
        + """
stream = connect()
stream.sendall(frame(b"wait\\0{}") + frame(b"echo\\0{}")[:6])
sys.stdin.read(1)
stream = connect()
stream.sendall(frame(b"wait\\0{}"))
stream.shutdown(socket.SHUT_WR)
print(answer(stream).decode())
"""
    )
    async with open_guest(tools=link) as guest:
        process = await guest.start("python3", "-c", code, stdin=True)
        with anyio.fail_after(10):
            while not link.calls:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        await anyio.sleep(0.05)
        assert link.cancelled == 0, "what is sent early is no end"
        assert process.stdin is not None
        await process.stdin.send(b"x")
        assert await process.stdout.receive() == b"closed \n"
        assert (await process.wait()).code == 0


async def test_a_slow_reader_holds_up_nobody_else(open_guest: OpenGuest) -> None:
    link = Link()
    code = (
        RAW
        + """
stream = connect()
stream.sendall(frame(b'big\\0{"size": 20000000}'))
print("asked", flush=True)
sys.stdin.read(1)
print(len(answer(stream)))
"""
    )
    async with open_guest(tools=link, limits=SessionLimits(tool_calls=2)) as guest:
        process = await guest.start("python3", "-c", code, stdin=True)
        assert await process.stdout.receive() == b"asked\n"
        for number in range(5):
            assert await call(guest, "echo", a=number) == f'{{"a": {number}}}'
        assert process.stdin is not None
        await process.stdin.send(b"x")
        assert await process.stdout.receive() == b"20000014\n"


async def test_idle_connections_make_room(open_guest: OpenGuest) -> None:
    """Connections that ask nothing can't keep others out, nor can those that never end their request."""
    code = (
        RAW
        + """
idle = [connect() for _ in range(100)]
busy = [connect() for _ in range(31)]
for stream in busy:
    stream.sendall(b"\\0\\0\\1\\0half")
stream = connect()
stream.sendall(frame(b'echo\\0"last"'))
print(answer(stream).decode())
"""
    )
    async with open_guest(tools=Link()) as guest:
        done = await guest.run("python3", "-c", code)
        assert done.out == b'{"result": "last"}\n', done.err


async def test_a_full_house_waits_at_the_door(open_guest: OpenGuest) -> None:
    code = (
        RAW
        + """
busy = [connect() for _ in range(32)]
for stream in busy:
    stream.sendall(b"\\0\\0\\1\\0half")
stream = connect()
stream.sendall(frame(b'echo\\0"last"'))
stream.settimeout(0.2)
try:
    print(answer(stream).decode())
except TimeoutError:
    print("waits")
busy[7].close()
stream.settimeout(10)
print(answer(stream).decode())
"""
    )
    async with open_guest(tools=Link()) as guest:
        done = await guest.run("python3", "-c", code)
        assert done.out == b'waits\n{"result": "last"}\n', done.err


async def test_the_end_of_the_session_ends_calls(open_guest: OpenGuest) -> None:
    link = Link()
    link.gate = anyio.Event()
    async with open_guest(tools=link) as guest:
        await guest.start("python3", "-c", "import jubako_tools; jubako_tools.call('wait')")
        with anyio.fail_after(10):
            while not link.calls:  # noqa: ASYNC110
                await anyio.sleep(0.01)
    assert link.cancelled == 1
    assert link.now == 0


async def test_without_tools_there_is_no_way_out(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        assert "tools" not in guest.session.hello.features
        done = await guest.sh("echo $JUBAKO_TOOLS; grep -c jubako-t /proc/net/unix")
        assert done.out.split()[:1] == [b"0"] or not guest.pid1


async def test_streams_for_calls_take_none_from_others(open_guest: OpenGuest) -> None:
    limits = SessionLimits(streams=3, tool_calls=5)
    async with open_guest(tools=Link(), limits=limits) as guest:
        running = [await guest.start("sleep", "60") for _ in range(2)]
        assert await call(guest, "echo") == "{}"
        for process in running:
            await process.kill()
        kinds = Counter(stream.request.name for stream in guest.session.machine.streams.values())
        assert kinds["TOOLS"] == 5


def test_defaults_are_sane() -> None:
    config = SessionConfig()
    assert config.tools == "@jubako-tools"
    assert config.limits.tool_calls == 16
