"""Trace sessions: the messages, what is made of them, and a hostile sentry at the socket."""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jubako.drivers.runsc.trace import Activity, TraceSession
from jubako.drivers.runsc.trace._acts import EVENTS_AT_ONCE, connection
from jubako.drivers.runsc.trace._points import SystemCalls, read_frame, read_point, trace_config
from jubako.drivers.runsc.trace._protobuf import MAX_FIELDS, MalformedMessageError, Message
from jubako.errors import LaunchError, LedgerError
from jubako.events import (
    Assurance,
    ConnectionTried,
    EventData,
    FileOpened,
    ProgramCloned,
    ProgramExited,
    ProgramStarted,
    Recorder,
    Source,
    TraceDropped,
    TraceFailed,
)
from jubako.policy import ObservePolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import TaskGroup

pytestmark = pytest.mark.anyio

CALLS = SystemCalls(execs=(59, 322), opens=(2, 85, 257))
EXEC, EXIT, CLONE, RAW, OPEN, CONNECT = 3, 4, 2, 6, 7, 10
ENOENT = 2


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def packet(kind: int, *fields: bytes, thread: int = 7, process: int = 7, cwd: str = "", dropped: int = 0) -> bytes:
    context = field(2, thread) + field(4, process) + (field(8, cwd) if cwd else b"")
    return struct.pack("<HHI", 8, kind, dropped) + field(1, context) + b"".join(fields)


def failed(error: int) -> bytes:
    return field(2, field(1, 2) + field(2, error))


def opened(path: str, *more: bytes, cwd: str = "/", directory: int = -100, base: str = "", flags: int = 0) -> bytes:
    fields = (field(3, 257), field(4, directory), field(5, base), field(6, path), field(7, flags), *more)
    return packet(OPEN, *fields, cwd=cwd)


def called(number: int, error: int | None = None, *, process: int = 7, thread: int = 7) -> bytes:
    end = b"" if error is None else failed(error) if error else field(2, b"")
    return packet(RAW, end, field(4, number), process=process, thread=thread)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scene:
    def __init__(self, *sensitive: str) -> None:
        self.events: list[EventData] = []
        self.clock = Clock()
        observe = ObservePolicy(sensitive=sensitive) if sensitive else ObservePolicy()
        self.activity = Activity(observe, self.events.append, self.clock, CALLS)

    def take(self, *packets: bytes) -> list[EventData]:
        before = len(self.events)
        for item in packets:
            self.activity.take(item)
        return self.events[before:]

    def missed(self) -> dict[str, int]:
        before = len(self.events)
        self.activity.report(now=True)
        return {item.reason: item.count for item in self.events[before:] if isinstance(item, TraceDropped)}


# The wire format.


def test_fields_are_read_by_number_and_kind() -> None:
    skipped = varint(9 << 3 | 1) + bytes(8) + varint(10 << 3 | 5) + bytes(4)
    message = Message(field(1, 300) + field(2, "a") + skipped + field(2, "b") + field(3, -2) + field(4, field(1, 5)))
    assert (message.number(1), message.signed(3), message.number(8)) == (300, -2, 0)
    assert (message.texts(2), message.text(2), message.text(8)) == (("a", "b"), "b", "")
    assert message.message(4).number(1) == 5
    assert (message.has(4), message.has(8), message.cut) == (True, False, False)
    assert Message(field(1, b"a\xffb")).text(1) == "a\\xffb"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x08", "ends after"),
        (b"\x08\x80", "ends after"),
        (b"\x08" + b"\x80" * 10, "64 bits"),
        (b"\x0a\x05abc", "ends after"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "ends after"),
        (b"\x0b", "kind 3"),
        (b"\x02\x00", "number 0"),
        (b"\x0d\x00", "ends after"),
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(MalformedMessageError, match=says):
        Message(data)


def test_fields_of_another_kind_are_refused() -> None:
    with pytest.raises(MalformedMessageError, match="no text"):
        Message(field(1, 1)).text(1)
    with pytest.raises(MalformedMessageError, match="no number"):
        Message(field(1, "x")).number(1)


def test_a_message_of_too_many_fields_is_cut() -> None:
    message = Message(field(1, 1) * (MAX_FIELDS + 1))
    assert message.cut


@given(st.binary(max_size=300))
def test_nothing_that_a_sentry_sends_breaks_the_reader(data: bytes) -> None:
    scene = Scene()
    for kind in (CLONE, EXEC, EXIT, RAW, OPEN, CONNECT):
        try:
            scene.take(struct.pack("<HHI", 8, kind, 0) + data)
        except MalformedMessageError:
            continue
        scene.activity.report(now=True)


def test_frames_say_where_their_message_begins() -> None:
    frame = read_frame(struct.pack("<HHI", 12, EXIT, 3) + b"more" + field(2, 256))
    assert (frame.kind, frame.dropped, frame.payload) == (EXIT, 3, field(2, 256))
    for broken in (b"", bytes(7), struct.pack("<HHI", 7, 1, 0), struct.pack("<HHI", 9, 1, 0)):
        with pytest.raises(MalformedMessageError):
            read_frame(broken)
    assert read_point(read_frame(packet(99))) is None


# What is made of it.


def test_programs_are_told_with_their_arguments() -> None:
    scene = Scene()
    events = scene.take(
        packet(CLONE, field(3, 9), field(4, 9)),
        packet(CLONE, field(3, 10), field(4, 7)),
        packet(EXEC, field(2, "/usr/bin/env"), field(3, "env"), field(3, "x=1"), field(4, "SECRET=1"), process=9),
        packet(EXIT, field(2, 3 << 8), process=9, thread=9),
        packet(EXIT, field(2, 9), process=8, thread=8),
    )
    assert events == [
        ProgramCloned(pid=7, child=9),
        ProgramStarted(pid=9, path="/usr/bin/env", argv=("env", "x=1")),
        ProgramExited(pid=9, code=3, signal=None),
        ProgramExited(pid=8, code=None, signal=9),
    ]
    assert scene.missed() == {}


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (opened("/etc/shadow"), "/etc/shadow"),
        (opened("//etc//shadow"), "/etc/shadow"),
        (opened("/tmp/../etc/./shadow"), "/etc/shadow"),
        (opened("../etc/shadow", cwd="/tmp"), "/etc/shadow"),
        (opened("shadow", directory=5, base="/etc"), "/etc/shadow"),
        (opened("shadow", directory=-100 & 0xFFFF_FFFF, cwd="/etc"), "/etc/shadow"),
        (opened("/root/.ssh/id"), "/root/.ssh/id"),
        (opened("/root"), "/root"),
        (opened("/proc/self/mem"), "/proc/self/mem"),
        (opened("/proc/7/mem"), "/proc/7/mem"),
        (opened("/proc/thread-self/mem"), "/proc/thread-self/mem"),
        (opened("/proc/7/task/8/mem"), "/proc/7/task/8/mem"),
        (opened("/rootless"), None),
        (opened("/etc/hosts"), None),
        (opened("/proc/7/maps"), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sensitive_paths_are_told_by_whatever_name_leads_there(request_: bytes, path: str | None) -> None:
    expected = [FileOpened(pid=7, path=path, write=False)] if path else []
    assert Scene().take(request_) == expected


def test_opens_tell_how_they_went() -> None:
    scene = Scene("/data")
    assert scene.take(opened("/data/x", flags=os.O_WRONLY), opened("/data/y", failed(ENOENT))) == [
        FileOpened(pid=7, path="/data/x", write=True),
        FileOpened(pid=7, path="/data/y", write=False, error=ENOENT),
    ]
    assert Scene("/").take(opened("/anything")) == [FileOpened(pid=7, path="/anything", write=False)]


def test_a_path_from_nowhere_is_counted() -> None:
    scene = Scene()
    assert scene.take(opened("shadow", directory=5, base="[err: FD not found]")) == []
    assert scene.missed() == {"unreadable": 1}


@pytest.mark.parametrize(
    ("address", "family", "where", "port"),
    [
        (b"\x02\x00\x00\x50\x0a\x01\x02\x03" + bytes(8), "inet", "10.1.2.3", 80),
        (b"\x0a\x00\x01\xbb" + bytes(4) + bytes(15) + b"\x01" + bytes(4), "inet6", "::1", 443),
        (b"\x01\x00/tmp/s\x00rest", "unix", "/tmp/s", None),
        (b"\x01\x00\x00name", "unix", "@name", None),
        (b"\x10\x00\x01\x02", "16", "0102", None),
        (b"\x02\x00\x00", "inet", "00", None),
        (b"\x0a\x00\x01\xbb", "inet6", "01bb", None),
        (b"", "0", "", None),
        (b"\xff" * 500, "65535", "ff" * 64, None),
    ],
)
def test_connections_are_told_whatever_the_address(address: bytes, family: str, where: str, port: int | None) -> None:
    told = ConnectionTried(pid=7, family=family, address=where, port=port)
    assert connection(7, address) == told
    assert Scene().take(packet(CONNECT, field(6, address))) == [told]


def test_an_exec_that_the_sentry_could_not_write_down_is_told_without_its_name() -> None:
    """The sentry drops messages whose strings are no UTF-8; the bare system call still shows."""
    scene = Scene()
    plain = packet(EXEC, field(2, "/bin/true"))
    hidden = ProgramStarted(pid=7, path="", argv=())
    assert scene.take(called(59), plain, called(59, 0)) == [ProgramStarted(pid=7, path="/bin/true", argv=())]
    assert scene.take(called(59), called(59, ENOENT)) == []
    assert scene.take(called(322), called(322, 0)) == [hidden]
    # A thread that executes takes over the id of its process.
    assert scene.take(called(59, thread=8), plain, called(59, 0)) == [ProgramStarted(pid=7, path="/bin/true", argv=())]
    assert scene.take(called(59), called(59, 0)) == [hidden]
    assert scene.missed() == {}


def test_opens_that_the_sentry_could_not_write_down_are_counted() -> None:
    scene = Scene()
    assert scene.take(called(257), opened("/x"), called(257), called(2), called(257, thread=9)) == []
    assert scene.missed() == {"unreadable": 1}
    scene.take(packet(EXIT, field(2, 0), thread=9, process=9))
    assert scene.missed() == {"unreadable": 1}
    scene.take(called(437, 0), called(437, 38), called(1))
    assert scene.missed() == {"unknown": 1, "unreadable": 1}


def test_what_the_sentry_dropped_is_counted_once() -> None:
    scene = Scene()
    counts = (0, 3, 2, 3, 10, 2**32 - 1, 4)
    scene.take(*(packet(EXIT, field(2, 0), dropped=count) for count in counts))
    assert scene.missed() == {"queue": 10}
    wrapped = Scene()
    wrapped.activity._dropped = 2**32 - 2
    wrapped.take(packet(EXIT, dropped=1))
    assert wrapped.missed() == {"queue": 3}


def test_a_flood_is_cut_and_counted_once_a_second() -> None:
    scene = Scene()
    bomb = packet(CLONE, field(3, 9), field(4, 9))
    assert len(scene.take(*[bomb] * (EVENTS_AT_ONCE + 50))) == EVENTS_AT_ONCE
    assert scene.activity.missing
    scene.activity.report()
    assert scene.events[-1] == TraceDropped(count=50, reason="rate")
    scene.take(bomb)
    scene.activity.report()
    assert len(scene.events) == EVENTS_AT_ONCE + 1
    scene.clock.now += 1
    scene.activity.report()
    assert scene.events[-1] == TraceDropped(count=1, reason="rate")
    assert scene.take(bomb) == [ProgramCloned(pid=7, child=9)]
    assert not scene.activity.missing


def test_what_is_remembered_is_bounded() -> None:
    scene = Scene()
    scene.take(*(called(257, thread=number) for number in range(65537)))
    assert len(scene.activity._opening) == 1
    assert scene.missed() == {"unreadable": 65536}


def test_events_of_the_sandbox_kernel_say_so() -> None:
    event = Recorder().record("box", ProgramCloned(pid=1, child=2))
    assert (event.source, event.assurance) == (Source.KERNEL, Assurance.OBSERVED)
    assert Recorder().record("box", TraceFailed(reason="x")).source is Source.HOST


def test_the_configuration_asks_for_what_is_read() -> None:
    config = json.dumps(trace_config("/s", CALLS))
    assert '"endpoint": "/s"' in config
    assert '"ignore_setup_error": false' in config
    names = [item["name"] for item in json.loads(config)["trace_session"]["points"]]
    assert len(names) == len(set(names))
    small = json.dumps(trace_config("/s", SystemCalls(execs=(221, 281), opens=(56,))))
    assert "syscall/open/exit" in config
    assert "syscall/open/exit" not in small


# The socket.


class Sentry:
    """Somebody at the socket, with a session on our side."""

    def __init__(self, directory: Path, tasks: TaskGroup) -> None:
        self.events: list[EventData] = []
        self.lost: list[str] = []
        self.refuse = False
        self.directory = directory
        self.session = TraceSession(directory, ObservePolicy(), emit=self._emit, on_lost=self.lost.append)
        self.session.start(tasks)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(0)

    def _emit(self, data: EventData) -> None:
        if self.refuse:
            raise LedgerError("full")
        self.events.append(data)

    async def connect(self, greeting: bytes = b"\x08\x02") -> bytes:
        descriptor = os.open(self.directory, os.O_PATH)
        self.socket.connect(f"/proc/self/fd/{descriptor}/trace.sock")
        os.close(descriptor)
        self.socket.send(greeting)
        await anyio.wait_readable(self.socket)
        return self.socket.recv(100)

    async def send(self, data: bytes) -> None:
        await anyio.wait_writable(self.socket)
        self.socket.send(data)


async def until(condition: object, *, seconds: float = 10) -> None:
    assert callable(condition)
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # what is awaited has no event
            await anyio.sleep(0.01)


@pytest.fixture
async def sentry(tmp_path: Path) -> AsyncIterator[Sentry]:
    async with anyio.create_task_group() as tasks:
        sentry = Sentry(tmp_path, tasks)
        yield sentry
        await sentry.session.aclose()
        await sentry.session.aclose()
        sentry.socket.close()
    assert not any(os.scandir(tmp_path))


alive = anyio.sleep_forever


async def dead() -> None:
    """Return at once, as a sandbox that has ended does."""


CLONED = packet(CLONE, field(3, 9), field(4, 9))


async def test_a_session_reads_until_it_is_closed(sentry: Sentry) -> None:
    names = {item.name: item.stat().st_mode & 0o777 for item in os.scandir(sentry.directory)}
    assert names == {"trace.sock": 0o666}
    assert json.loads(sentry.session.config("/inside"))["trace_session"]["sinks"][0]["config"]["endpoint"] == "/inside"
    assert await sentry.connect() == b"\x08\x01"
    await sentry.session.connected(alive)
    assert not any(os.scandir(sentry.directory))
    for _ in range(200):
        await sentry.send(CLONED)
    await until(lambda: len(sentry.events) == 200)
    await sentry.send(CLONED)
    sentry.socket.close()
    await sentry.session.aclose()
    assert sentry.events == [ProgramCloned(pid=7, child=9)] * 201
    assert sentry.lost == []


async def test_losses_are_told_while_nothing_happens(sentry: Sentry) -> None:
    await sentry.connect()
    await sentry.send(packet(CLONE, dropped=5))
    await sentry.send(packet(CLONE, dropped=6))
    await until(lambda: len(sentry.events) >= 2)
    await anyio.sleep(1.2)
    assert sum(item.count for item in sentry.events if isinstance(item, TraceDropped)) == 6


@pytest.mark.parametrize("hostile", [b"\x01", struct.pack("<HHI", 8, EXEC, 0) + b"\x08", bytes(200_000)])
async def test_a_broken_packet_ends_the_session_and_the_sandbox(sentry: Sentry, hostile: bytes) -> None:
    await sentry.connect()
    await sentry.session.connected(alive)
    await sentry.send(CLONED)
    await sentry.send(hostile)
    await until(lambda: sentry.lost)
    assert sentry.events == [ProgramCloned(pid=7, child=9), TraceFailed(reason=sentry.lost[0])]


async def test_packets_over_the_limit_end_the_session(sentry: Sentry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jubako.drivers.runsc.trace._session._PACKET_LIMIT", 1000)
    await sentry.connect()
    await sentry.send(CLONED + bytes(1000))
    await until(lambda: sentry.lost)
    assert sentry.lost == ["a packet is too long"]


async def test_a_sentry_that_goes_silent_loses_the_sandbox(sentry: Sentry) -> None:
    await sentry.connect()
    await sentry.session.connected(alive)
    sentry.socket.close()
    await until(lambda: sentry.lost)
    assert sentry.lost == ["the sentry closed its trace session"]
    assert sentry.events == [TraceFailed(reason="the sentry closed its trace session")]


async def test_a_ledger_that_takes_nothing_loses_the_sandbox(sentry: Sentry) -> None:
    await sentry.connect()
    sentry.refuse = True
    await sentry.send(CLONED)
    await until(lambda: sentry.lost)
    assert sentry.lost == ["full"]


@pytest.mark.parametrize("greeting", [b"", b"\x08\x00", b"\x08"])
async def test_a_greeting_that_makes_no_sense_refuses_the_launch(sentry: Sentry, greeting: bytes) -> None:
    descriptor = os.open(sentry.directory, os.O_PATH)
    sentry.socket.connect(f"/proc/self/fd/{descriptor}/trace.sock")
    os.close(descriptor)
    sentry.socket.send(greeting)
    with pytest.raises(LaunchError, match="did not open its trace session"):
        await sentry.session.connected(alive)
    assert len(sentry.lost) == 1


async def test_nobody_at_the_socket_refuses_the_launch(sentry: Sentry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jubako.drivers.runsc.trace._session._CONNECT_SECONDS", 0.05)
    with pytest.raises(LaunchError, match="nothing connected"):
        await sentry.session.connected(alive)


async def test_a_sandbox_that_died_refuses_the_launch(sentry: Sentry) -> None:
    with pytest.raises(LaunchError, match="nothing connected"):
        await sentry.session.connected(dead)


async def test_reading_is_paced(sentry: Sentry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood makes the sentry wait, not the host busy."""
    sentry.session._budget._left = 10
    sentry.session._budget._rate = 100
    await sentry.connect()
    began = anyio.current_time()
    for _ in range(150):
        await sentry.send(packet(OPEN))
    await until(lambda: not _unread(sentry))
    assert anyio.current_time() - began > 0.5


def _unread(sentry: Sentry) -> bool:
    import fcntl
    import termios

    peer = sentry.session._peer
    assert peer is not None
    return fcntl.ioctl(peer, termios.FIONREAD, bytes(4)) != bytes(4)


async def test_the_socket_may_have_a_long_path(tmp_path: Path) -> None:
    directory = tmp_path.joinpath(*itertools.repeat("d" * 50, 3))
    directory.mkdir(parents=True)
    async with anyio.create_task_group() as tasks:
        sentry = Sentry(directory, tasks)
        assert await sentry.connect() == b"\x08\x01"
        await sentry.session.aclose()
        sentry.socket.close()


async def test_a_directory_that_is_not_there_refuses_the_launch(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="can't be made"):
        TraceSession(tmp_path / "none", ObservePolicy(), emit=print, on_lost=print)
