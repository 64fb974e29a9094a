"""A guest that breaks each rule of the protocol: the rule is named, the session dead, nobody hangs."""

from __future__ import annotations

import socket
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.boundary.contract import ExecRequest
from jubako.errors import InstanceLostError, JubakoError, LaunchError, ProtocolError
from jubako.guest import GuestSession, Identity, LandlockConfig, SessionConfig, SessionLimits, SocketStream
from jubako.guest.wire import HEADER, MAX_GUEST_PAYLOAD, PROTOCOL, Message, Rule, encode, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from conftest import Hooks as HooksType

pytestmark = pytest.mark.anyio
P = PurePosixPath

HELLO = frame(Message.HELLO, 0, encode(Message.HELLO, (PROTOCOL, "fake", "3.11", 1, 1000)))
READY = frame(Message.READY, 0, encode(Message.READY, ([b"exec"], 0, 0, "")))
STARTED = encode(Message.STARTED, (7,))
EXIT = encode(Message.EXIT, (0, 0, 0, 0, 0, 0, 0))
END = encode(Message.END, (0, 0, ""))
PREPARED = encode(Message.PREPARED, (1, 0, ""))
RENEWED = encode(Message.RENEWED, (2, "fake", "3.11", 1, 1000, [b"exec"], 0, 0, "", []))
INFO = encode(Message.INFO, (0, 5, 0o644, 0, b""))


def entry(path: bytes) -> bytes:
    return encode(Message.ENTRY, (path, 0, 5, 0o644, 0, b""))


class FakeGuest:
    """The guest's end of the stream, in the test's hands."""

    def __init__(self, ours: socket.socket) -> None:
        self.stream = SocketStream(ours)

    async def send(self, *frames: bytes) -> None:
        await self.stream.send(b"".join(frames))

    async def rest(self) -> None:
        """Return when the host has hung up."""
        with suppress(anyio.EndOfStream):
            while True:
                await self.stream.receive()

    async def until(self, kind: Message) -> int:
        """Return the stream id of the next frame of that kind from the host."""
        buffer = b""
        while True:
            buffer += await self.stream.receive()
            at = 0
            while len(buffer) - at >= HEADER.size:
                size, number, ident = HEADER.unpack_from(buffer, at)
                if len(buffer) - at < HEADER.size + size:
                    break
                at += HEADER.size + size
                if number == kind:
                    return int(ident)
            buffer = buffer[at:]


class Hooks:
    def __init__(self) -> None:
        self.violations: list[str] = []
        self.kills = 0

    def limit_counters(self) -> dict[str, int]:
        return {}

    def on_violation(self, rule: str) -> None:
        self.violations.append(rule)

    def kill_instance(self) -> None:
        self.kills += 1


class BadHooks(Hooks):
    def limit_counters(self) -> dict[str, int]:
        raise OSError("gone")

    def on_violation(self, rule: str) -> None:
        raise ZeroDivisionError


@asynccontextmanager
async def hostile(
    hooks: HooksType | Hooks | None = None, **options: object
) -> AsyncIterator[tuple[GuestSession, FakeGuest, Hooks]]:
    theirs, ours = socket.socketpair()
    guest = FakeGuest(theirs)
    watching = hooks if isinstance(hooks, Hooks) else Hooks()
    limits = SessionLimits(window=65536, kill=timedelta(seconds=0.2))
    config = SessionConfig(limits=limits, **options)  # type: ignore[arg-type]  # options go through as they are
    try:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                await guest.send(HELLO, READY[:0])
                session: list[GuestSession] = []

                async def open_session() -> None:
                    session.append(
                        await GuestSession.open(SocketStream(ours), tasks=tasks, config=config, hooks=watching)
                    )

                async with anyio.create_task_group() as opening:
                    opening.start_soon(open_session)
                    await guest.until(Message.CONFIG)
                    await guest.send(READY)
                yield session[0], guest, watching
                await session[0].aclose()
    finally:
        guest.stream.close()
        ours.close()


async def exec_(session: GuestSession) -> None:
    process = await session.exec(ExecRequest(argv=("x",), stdin=True, max_output=10**9))
    await process.wait()
    async for _ in process.stdout:
        pass


async def exec_without_stdin(session: GuestSession) -> None:
    await (await session.exec(ExecRequest(argv=("x",)))).wait()


async def read(session: GuestSession) -> None:
    await session.files.read(P("x"), limit=10)


async def read_much(session: GuestSession) -> None:
    async with aclosing(session.files.stream(P("x"), limit=10**9)) as parts:  # type: ignore[type-var]  # a generator
        async for _ in parts:
            await anyio.sleep(60)


async def scan(session: GuestSession) -> None:
    async for _ in session.files.scan(P("x")):
        pass


async def scan_tree(session: GuestSession) -> None:
    async for _ in session.files.scan(P("x"), recursive=True):
        pass


async def watch(session: GuestSession) -> None:
    async for _ in session.files.watch(P("x")):
        pass


async def stat(session: GuestSession) -> None:
    await session.files.stat(P("x"))


async def write(session: GuestSession) -> None:
    await session.files.write(P("x"), bytes(1000))


async def connect(session: GuestSession) -> None:
    stream = await session.connect(80)
    async for _ in stream:
        pass


async def usage(session: GuestSession) -> None:
    await session.usage()


def f(kind: Message, payload: bytes = b"", ident: int = 1) -> bytes:
    return frame(kind, ident, payload)


def credit(amount: int, channel: int = 0) -> bytes:
    return f(Message.CREDIT, encode(Message.CREDIT, (channel, amount)))


def data(size: int, kind: Message = Message.DATA) -> bytes:
    return f(kind, bytes(size))


def end(kind: int, errno: int = 0) -> bytes:
    return f(Message.END, encode(Message.END, (kind, errno, "")))


REQUESTS: dict[Callable[[GuestSession], Awaitable[None]], Message] = {
    exec_: Message.EXEC,
    exec_without_stdin: Message.EXEC,
    read: Message.READ,
    read_much: Message.READ,
    scan: Message.SCAN,
    scan_tree: Message.SCAN,
    watch: Message.WATCH,
    stat: Message.STAT,
    write: Message.WRITE,
    connect: Message.CONNECT,
    usage: Message.USAGE,
}
BEGUN = f(Message.STARTED, STARTED)
ENDED = BEGUN + f(Message.EXIT, EXIT) + f(Message.EOF, b"\0") + f(Message.EOF, b"\1") + f(Message.END, END)

CASES: list[tuple[Rule, Callable[[GuestSession], Awaitable[None]], bytes]] = [
    (Rule.FRAME_SIZE, stat, HEADER.pack(MAX_GUEST_PAYLOAD + 1, Message.DATA, 1)),
    (Rule.FRAME_SIZE, stat, HEADER.pack(2**32 - 1, Message.END, 1)),
    (Rule.FRAME_TYPE, stat, HEADER.pack(0, 0, 1)),
    (Rule.FRAME_TYPE, stat, HEADER.pack(0, 255, 1)),
    (Rule.FRAME_DIRECTION, stat, f(Message.EXEC)),
    (Rule.FRAME_DIRECTION, stat, f(Message.CONFIG, ident=0)),
    (Rule.FRAME_DIRECTION, stat, f(Message.CLOSE)),
    (Rule.MESSAGE_MALFORMED, stat, f(Message.END, END[:-1])),
    (Rule.MESSAGE_MALFORMED, stat, f(Message.END, b"")),
    (Rule.MESSAGE_MALFORMED, stat, f(Message.END, END[:5] + b"\xff\xff\xff\xff")),
    (Rule.MESSAGE_MALFORMED, stat, f(Message.END, END[:5] + b"\0\0\0\1\xff")),
    (Rule.MESSAGE_TRAILING, stat, f(Message.END, END + b"\0")),
    (Rule.MESSAGE_RANGE, stat, f(Message.END, b"\6" + END[1:])),
    (Rule.MESSAGE_RANGE, stat, f(Message.INFO, b"\4" + INFO[1:])),
    (Rule.MESSAGE_RANGE, stat, f(Message.END, END[:5] + b"\0\0\4\1" + bytes(1025))),
    (Rule.MESSAGE_RANGE, exec_, BEGUN + f(Message.EXIT, b"\1\0\0\0\0" + EXIT[5:])),
    (Rule.MESSAGE_RANGE, exec_, BEGUN + f(Message.EXIT, b"\1\0\0\0\x41" + EXIT[5:])),
    (Rule.SESSION_STATE, stat, HELLO),
    (Rule.SESSION_STATE, stat, READY),
    (Rule.SESSION_STATE, stat, f(Message.END, END, ident=0)),
    (Rule.SESSION_STATE, stat, f(Message.PREPARED, PREPARED, ident=0)),
    (Rule.SESSION_STATE, stat, f(Message.RENEWED, RENEWED, ident=0)),
    (Rule.SESSION_STATE, stat, f(Message.DATA, b"x", ident=0)),
    (Rule.SESSION_STATE, stat, f(Message.BYE, encode(Message.BYE, (0, "")), ident=0) * 2),
    (Rule.STREAM_UNKNOWN, stat, f(Message.END, END, ident=2)),
    (Rule.STREAM_UNKNOWN, stat, f(Message.DATA, b"x", ident=2**32 - 1)),
    (Rule.STREAM_ENDED, exec_, ENDED + f(Message.END, END)),
    (Rule.STREAM_ENDED, exec_, ENDED + data(1)),
    (Rule.STREAM_STATE, stat, f(Message.STARTED, STARTED)),
    (Rule.STREAM_STATE, stat, f(Message.END, END)),
    (Rule.STREAM_STATE, stat, f(Message.INFO, INFO) * 2),
    (Rule.STREAM_STATE, stat, end(5)),
    (Rule.STREAM_STATE, stat, end(3)),
    (Rule.STREAM_STATE, usage, f(Message.INFO, INFO)),
    (Rule.STREAM_STATE, usage, f(Message.END, END)),
    (Rule.STREAM_STATE, read, data(1)),
    (Rule.STREAM_STATE, read, f(Message.INFO, INFO) * 2),
    (Rule.STREAM_STATE, read, f(Message.END, END)),
    (Rule.STREAM_STATE, scan, f(Message.CHANGE, encode(Message.CHANGE, (0, b"x")))),
    (Rule.STREAM_STATE, watch, f(Message.ENTRY, entry(b"x"))),
    (Rule.EXEC_NOT_STARTED, exec_, f(Message.INFO, INFO)),
    (Rule.STREAM_STATE, exec_, BEGUN + f(Message.INFO, INFO)),
    (Rule.STREAM_STATE, exec_, end(1, 5)),
    (Rule.STREAM_STATE, connect, data(1)),
    (Rule.STREAM_STATE, connect, f(Message.CONNECTED) * 2),
    (Rule.STREAM_STATE, connect, f(Message.END, END)),
    (Rule.STREAM_STATE, connect, f(Message.EOF, b"\0")),
    (Rule.CHANNEL_UNKNOWN, stat, data(1)),
    (Rule.CHANNEL_UNKNOWN, read, f(Message.INFO, INFO) + data(1, Message.ERRDATA)),
    (Rule.CHANNEL_UNKNOWN, stat, credit(1)),
    (Rule.CHANNEL_UNKNOWN, exec_, BEGUN + credit(1, channel=1)),
    (Rule.CHANNEL_UNKNOWN, exec_without_stdin, BEGUN + credit(1)),
    (Rule.CHANNEL_UNKNOWN, exec_without_stdin, BEGUN + f(Message.DISCARD, b"\0")),
    (Rule.CHANNEL_UNKNOWN, connect, f(Message.CONNECTED) + f(Message.EOF, b"\1")),
    (Rule.CHANNEL_ENDED, exec_, BEGUN + f(Message.EOF, b"\0") * 2),
    (Rule.CHANNEL_ENDED, exec_, BEGUN + f(Message.EOF, b"\1") + data(1, Message.ERRDATA)),
    (Rule.CHANNEL_ENDED, exec_, BEGUN + f(Message.DISCARD, b"\0") * 2),
    (Rule.DATA_EMPTY, exec_, BEGUN + data(0)),
    (Rule.DATA_EMPTY, read, f(Message.INFO, INFO) + data(0)),
    (Rule.CREDIT_OVERRUN, exec_, BEGUN + data(65536) + data(1)),
    (Rule.CREDIT_OVERRUN, exec_, BEGUN + data(65536, Message.ERRDATA) + data(1, Message.ERRDATA)),
    (Rule.CREDIT_OVERRUN, read_much, f(Message.INFO, INFO) + data(65536) + data(65536)),
    (Rule.CREDIT_OVERRUN, scan, f(Message.ENTRY, entry(b"x" * 250)) * 400),
    (Rule.CREDIT_GRANT, exec_, BEGUN + credit(0)),
    (Rule.CREDIT_GRANT, exec_, BEGUN + credit(1)),
    (Rule.CREDIT_GRANT, write, credit(1001)),
    (Rule.CREDIT_GRANT, exec_, BEGUN + f(Message.DISCARD, b"\0") + credit(1)),
    (Rule.EXEC_NOT_STARTED, exec_, f(Message.EXIT, EXIT)),
    (Rule.EXEC_NOT_STARTED, exec_, data(1)),
    (Rule.EXEC_NOT_STARTED, exec_, f(Message.EOF, b"\0")),
    (Rule.EXEC_NOT_STARTED, exec_, f(Message.END, END)),
    (Rule.EXEC_STARTED_TWICE, exec_, BEGUN * 2),
    (Rule.EXEC_EXITED_TWICE, exec_, BEGUN + f(Message.EXIT, EXIT) * 2),
    (Rule.EXEC_NOT_EXITED, exec_, BEGUN + f(Message.END, END)),
    (Rule.EXEC_NOT_EXITED, exec_, BEGUN + f(Message.EXIT, EXIT) + f(Message.END, END)),
    (Rule.EXEC_NOT_EXITED, exec_, BEGUN + end(3)),
    (Rule.ENTRY_PATH, scan, f(Message.ENTRY, entry(b"a/b"))),
    (Rule.ENTRY_PATH, scan, f(Message.ENTRY, entry(b""))),
    (Rule.ENTRY_PATH, scan_tree, f(Message.ENTRY, entry(b"/etc/passwd"))),
    (Rule.ENTRY_PATH, scan_tree, f(Message.ENTRY, entry(b"a/../../b"))),
    (Rule.ENTRY_PATH, scan_tree, f(Message.ENTRY, entry(b"a\0b"))),
    (Rule.ENTRY_PATH, watch, f(Message.CHANGE, encode(Message.CHANGE, (0, b"..")))),
    (Rule.ENTRY_PATH, watch, f(Message.CHANGE, encode(Message.CHANGE, (4, b"x")))),
    (Rule.DATA_LENGTH, read, f(Message.INFO, INFO) + data(12)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "call", "frames"),
    CASES,
    ids=[f"{rule}-{call.__name__}-{number}" for number, (rule, call, _) in enumerate(CASES)],
)
async def test_each_rule(rule: Rule, call: Callable[[GuestSession], Awaitable[None]], frames: bytes) -> None:
    async with hostile() as (session, guest, hooks), anyio.create_task_group() as tasks:
        errors: list[JubakoError] = []

        async def attempt() -> None:
            try:
                await call(session)
            except JubakoError as error:
                errors.append(error)

        bystander: list[JubakoError] = []

        async def other() -> None:
            try:
                await session.call(Message.MKDIR, (b"x", 0, 0))
            except JubakoError as error:
                bystander.append(error)

        tasks.start_soon(attempt)
        await guest.until(REQUESTS[call])
        if rule is not Rule.STREAM_UNKNOWN:
            tasks.start_soon(other)
            await guest.until(Message.MKDIR)
        # Dribbled, so that no rule depends on how the bytes arrive.
        for at in range(0, min(len(frames), 200), 7):
            await guest.send(frames[at : min(at + 7, 200)])
        await guest.send(frames[200:])
        await session.closed.wait()
        assert isinstance(session.failure, ProtocolError)
        assert session.failure.details["rule"] == rule
        assert (hooks.violations, hooks.kills) == ([rule], 1)
        with pytest.raises(ProtocolError):
            await session.files.stat(P("x"))
        await guest.rest()
        if call is read_much:
            tasks.cancel_scope.cancel()
        await anyio.wait_all_tasks_blocked()
    if rule is not Rule.STREAM_UNKNOWN:
        assert [type(error) for error in bystander] == [type(session.failure)]
    assert len(hooks.violations) == 1


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, _, _ in CASES} == set(Rule)


async def test_hooks_that_fail_do_not_keep_a_session_alive(caplog: pytest.LogCaptureFixture) -> None:
    hooks = BadHooks()
    async with hostile(hooks) as (session, guest, _):
        async with anyio.create_task_group() as tasks:

            async def attempt() -> None:
                with pytest.raises(ProtocolError):
                    await session.exec(ExecRequest(argv=("x",)))

            tasks.start_soon(attempt)
            await guest.until(Message.EXEC)
            await guest.send(f(Message.EXIT, EXIT))
        assert hooks.kills == 1
    assert "hook failed" in caplog.text


@pytest.mark.parametrize(
    ("first", "error", "text"),
    [
        (b"", LaunchError, "did not start"),
        (HELLO, LaunchError, "did not start"),
        (READY, ProtocolError, "session.state"),
        (b"GET / HTTP/1.1\r\n\r\n", ProtocolError, "frame.size"),
        (HELLO + READY, ProtocolError, "session.state"),
        (frame(Message.HELLO, 0, encode(Message.HELLO, (1, "9", "3", 1, 1))), LaunchError, "protocol 1"),
        (frame(Message.HELLO, 1, HELLO[9:]), ProtocolError, "stream.unknown"),
        (frame(Message.BYE, 0, encode(Message.BYE, (2, "no\x1b[31m"))), ProtocolError, "session.state"),
        (HELLO + frame(Message.BYE, 0, encode(Message.BYE, (2, "no \x1b[31m"))), LaunchError, r"no \x1b[31m"),
    ],
    ids=["silent", "half", "order", "http", "eager", "version", "stream", "early-bye", "bye"],
)
async def test_handshakes_that_fail(first: bytes, error: type[JubakoError], text: str) -> None:
    theirs, ours = socket.socketpair()
    theirs.settimeout(0)
    theirs.send(first)
    theirs.shutdown(socket.SHUT_WR)
    hooks = Hooks()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            with pytest.raises(error) as caught:
                await GuestSession.open(SocketStream(ours), tasks=tasks, config=SessionConfig(), hooks=hooks)
            assert text in str(caught.value)
    assert ours.fileno() == -1
    theirs.close()


async def test_silent_guest_times_out() -> None:
    theirs, ours = socket.socketpair()
    config = SessionConfig(limits=SessionLimits(handshake=timedelta(seconds=0.1)))
    async with anyio.create_task_group() as tasks:
        with pytest.raises(LaunchError):
            await GuestSession.open(SocketStream(ours), tasks=tasks, config=config, hooks=Hooks())
    assert theirs.recv(1) == b""
    theirs.close()


async def test_cancelled_open_leaves_nothing() -> None:
    theirs, ours = socket.socketpair()
    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.05):
            await GuestSession.open(SocketStream(ours), tasks=tasks, config=SessionConfig(), hooks=Hooks())
    assert theirs.recv(1) == b""
    theirs.close()


async def test_required_second_wall_must_stand() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with hostile(landlock=LandlockConfig(required=True)):
            pass
    assert caught.group_contains(LaunchError, match="second wall")


async def test_guest_that_never_confirms_a_kill_is_killed() -> None:
    async with hostile() as (session, guest, hooks), anyio.create_task_group() as tasks:

        async def attempt() -> None:
            with pytest.raises(InstanceLostError):
                await (await session.exec(ExecRequest(argv=("x",), timeout=timedelta(seconds=0.05)))).wait()

        tasks.start_soon(attempt)
        ident = await guest.until(Message.EXEC)
        await guest.send(frame(Message.STARTED, ident, STARTED))
        await guest.until(Message.KILL)
        await session.closed.wait()
        assert hooks.kills == 1
        assert not hooks.violations


async def test_guest_that_lies_about_sizes() -> None:
    async with hostile() as (session, guest, _), anyio.create_task_group() as tasks:
        seen: list[bytes] = []

        async def attempt() -> None:
            seen.append(await session.files.read(P("x"), limit=10))

        tasks.start_soon(attempt)
        ident = await guest.until(Message.READ)
        await guest.send(
            frame(Message.INFO, ident, INFO), frame(Message.DATA, ident, b"0123456789"), frame(Message.END, ident, END)
        )
        while not seen:  # noqa: ASYNC110  # an event would be one more thing to get wrong here
            await anyio.sleep(0.001)
        assert seen == [b"0123456789"]


async def test_guest_that_stops_reading_blocks_nobody_but_its_own_callers() -> None:
    async with hostile() as (session, guest, hooks):
        with anyio.move_on_after(0.3) as scope:
            async with anyio.create_task_group() as tasks:
                for _ in range(30):
                    tasks.start_soon(session.files.write, P("x"), bytes(10**6))
        assert scope.cancelled_caught
        assert not hooks.violations
        assert not session.closed.is_set()
        assert guest is not None


async def test_text_from_the_guest_is_escaped() -> None:
    async with hostile() as (session, guest, _), anyio.create_task_group() as tasks:

        async def attempt() -> None:
            process = await session.exec(ExecRequest(argv=("x",)))
            status = await process.wait()
            assert (status.code, status.message) == (127, "\\x1b[2Jgone\\u202e")

        tasks.start_soon(attempt)
        ident = await guest.until(Message.EXEC)
        await guest.send(frame(Message.END, ident, encode(Message.END, (3, 2, "\x1b[2Jgone\u202e"))))


@pytest.mark.parametrize(
    ("first", "error", "text"),
    [
        (b"", LaunchError, "did not start"),
        (HELLO, ProtocolError, "session.state"),
        (READY, ProtocolError, "session.state"),
        (f(Message.PREPARED, PREPARED, ident=0), ProtocolError, "session.state"),
        (f(Message.RENEWED, RENEWED, ident=0) * 2, ProtocolError, "session.state"),
        (f(Message.RENEWED, b"\0\0\0\x09" + RENEWED[4:], ident=0), LaunchError, "protocol 9"),
        (f(Message.RENEWED, RENEWED[:-4] + b"\0\0\0\1\0\0\0\5ho\x1b\xffe", ident=0), LaunchError, r"kept .* ho\\x1b"),
        (f(Message.BYE, encode(Message.BYE, (0, "enough")), ident=0), LaunchError, "enough"),
    ],
    ids=["silent", "hello", "ready", "prepared", "twice", "version", "kept", "bye"],
)
async def test_restored_children_that_misbehave(first: bytes, error: type[JubakoError], text: str) -> None:
    theirs, ours = socket.socketpair()
    theirs.settimeout(0)
    theirs.send(first)
    theirs.shutdown(socket.SHUT_WR)
    identity = Identity("child")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            with pytest.raises(error, match=text):
                await GuestSession.resume(
                    SocketStream(ours), tasks=tasks, config=SessionConfig(), hooks=Hooks(), identity=identity
                )
    assert ours.fileno() == -1
    assert identity.seed in theirs.recv(4096)
    assert "seed" not in repr(identity)
    theirs.close()


async def test_a_guest_that_never_becomes_still_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jubako.guest.renewal._MARGIN", 0.1)
    async with hostile() as (session, guest, hooks):
        with pytest.raises(InstanceLostError, match="still"):
            await session.prepare()
        assert hooks.kills == 1
        assert session.closed.is_set()
        assert guest is not None


async def test_a_guest_that_answers_twice_breaks_a_rule() -> None:
    async with hostile() as (session, guest, hooks), anyio.create_task_group() as tasks:
        tasks.start_soon(session.prepare)
        await guest.until(Message.PREPARE)
        await guest.send(f(Message.PREPARED, PREPARED, ident=0) * 2)
        await session.closed.wait()
        assert hooks.violations == [Rule.SESSION_STATE]
