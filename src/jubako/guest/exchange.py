"""One request and its answers: channels under credit, and which message may come when."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final, Generic, TypeVar, cast

import anyio

from jubako.guest.wire import EndKind, Fields, Message, Rule, ViolationError

if TYPE_CHECKING:
    from jubako.errors import JubakoError
    from jubako.guest.machine import Machine

__all__ = [
    "CallExchange",
    "ConnectExchange",
    "Exchange",
    "ExecExchange",
    "Inbox",
    "Latch",
    "Outbox",
    "ReadExchange",
    "ReplyExchange",
    "ScanExchange",
    "WatchExchange",
    "WriteExchange",
]

_T = TypeVar("_T")

_LOST: Final = 4
_SIGNALLED: Final = 1


class Latch:
    """Something that happens once; needs no event loop until it is awaited."""

    __slots__ = ("_event", "_set")

    def __init__(self) -> None:
        self._set = False
        self._event: anyio.Event | None = None

    @property
    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._set

    def set(self) -> None:
        """Let it have happened; idempotent."""
        self._set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Return once it has happened."""
        if not self._set:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()


class _Changes:
    """Wakes everybody who waits for the next change."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


class Inbox(Generic[_T]):
    """What the guest sent on one channel and nobody has taken yet, bounded by credit."""

    __slots__ = ("_changes", "_credit", "_items", "_owed", "_stream", "channel", "dropping", "ended")

    def __init__(self, stream: Exchange, channel: int, window: int) -> None:
        self.channel = channel
        self.ended = False
        self.dropping = False
        self._stream = stream
        self._credit = window
        self._owed = 0
        self._items: deque[tuple[_T, int]] = deque()
        self._changes = _Changes()

    def push(self, item: _T, size: int) -> None:
        """Keep an item that the guest sent. Raises ViolationError over the credit or after the end."""
        if self.ended:
            raise ViolationError(Rule.CHANNEL_ENDED)
        if size > self._credit:
            raise ViolationError(Rule.CREDIT_OVERRUN)
        self._credit -= size
        if item and not self.dropping:
            self._items.append((item, size))
            self._changes.notify()

    def end(self) -> None:
        """Note that the guest sends no more. Raises ViolationError when it said so before."""
        if self.ended:
            raise ViolationError(Rule.CHANNEL_ENDED)
        self.ended = True
        self._changes.notify()

    def close(self) -> None:
        """Let the end be seen, whether or not the guest said so."""
        self.ended = True
        self._changes.notify()

    def drop(self, *, keep: bool = False) -> None:
        """Take no more, and unless ``keep`` forget what is there."""
        self.dropping = True
        if not keep:
            self._items.clear()
        self._changes.notify()

    def take(self) -> _T | None:
        """Return the next item if there is one, and give the guest credit for it."""
        if not self._items:
            return None
        item, size = self._items.popleft()
        self._grant(size)
        return item

    def put_back(self, item: _T) -> None:
        """Return the rest of an item that was taken in part."""
        # The credit for all of it is given already; the rest is at most one frame.
        self._items.appendleft((item, 0))

    def _grant(self, size: int) -> None:
        self._owed += size
        if self._owed >= self._stream.window // 2 and not self.ended and not self.dropping:
            amount, self._owed = self._owed, 0
            self._credit += amount
            self._stream.send(Message.CREDIT, self.channel, amount)

    async def wait(self) -> None:
        """Return when there may be something new."""
        if not self._items and not self.ended:
            await self._changes.wait()

    async def next(self) -> _T | None:
        """Return the next item, or None at the end. Raises the session's failure."""
        while True:
            item = self.take()
            if item is not None:
                return item
            if self.ended:
                if self._stream.failure is not None:
                    raise self._stream.failure
                return None
            await self.wait()


class Outbox:
    """Credit that the guest gave for one stream."""

    __slots__ = ("_changes", "_window", "broken", "credit")

    def __init__(self, window: int) -> None:
        self.credit = window
        self.broken = False
        self._window = window
        self._changes = _Changes()

    def grant(self, amount: int) -> None:
        """Take credit. Raises ViolationError for none, or for more than was used."""
        if amount == 0 or self.broken or self.credit + amount > self._window:
            raise ViolationError(Rule.CREDIT_GRANT)
        self.credit += amount
        self._changes.notify()

    def close(self) -> None:
        """Note that the guest takes no more."""
        self.broken = True
        self._changes.notify()

    async def wait(self) -> None:
        """Return when there is credit, or when there will never be any."""
        while self.credit <= 0 and not self.broken:
            await self._changes.wait()


class Exchange:
    """One request. Subclasses say which answers their kind of request accepts, and when."""

    request: Message
    channels: ClassVar[int] = 0

    def __init__(self) -> None:
        self.ident = 0
        self.window = 0
        self.done = Latch()
        self.end: tuple[EndKind, int, str] | None = None
        self.failure: JubakoError | None = None
        self.inboxes: tuple[Inbox[bytes], ...] = ()
        self.outbox: Outbox | None = None
        self._machine: Machine | None = None
        self._closing = False

    def bind(self, machine: Machine, ident: int) -> None:
        """Become stream ``ident`` of the session."""
        self._machine = machine
        self.ident = ident
        self.window = machine.window
        self.inboxes = tuple(Inbox[bytes](self, channel, self.window) for channel in range(self.channels))

    @property
    def machine(self) -> Machine:
        """The session's state machine; the stream must be open or have been."""
        if self._machine is None:
            msg = "the stream was never opened"
            raise AssertionError(msg)
        return self._machine

    @property
    def is_over(self) -> bool:
        """Whether the guest has said its last word."""
        return self.done.is_set

    def send(self, kind: Message, *fields: int) -> None:
        """Send a control message on this stream unless it is over."""
        if not self.is_over:
            self.machine.send(kind, self.ident, fields)

    def close(self) -> None:
        """Tell the guest that nobody is interested any more; idempotent."""
        if not self._closing and not self.is_over:
            self._closing = True
            self.forget()
            self.send(Message.CLOSE)

    def forget(self) -> None:
        """Drop what comes from now on."""
        for inbox in self.inboxes:
            inbox.drop()

    def fail(self, error: JubakoError) -> None:
        """End because the session is over."""
        if not self.is_over:
            self.failure = error
            self._finish()

    def _finish(self) -> None:
        for inbox in self.inboxes:
            inbox.close()
        if self.outbox is not None:
            self.outbox.close()
        self.done.set()

    def on_data(self, channel: int, data: bytes) -> None:
        """Take a data frame."""
        if channel >= len(self.inboxes):
            raise ViolationError(Rule.CHANNEL_UNKNOWN)
        if not data:
            # An endless row of empty frames would cost the guest no credit.
            raise ViolationError(Rule.DATA_EMPTY)
        self.inboxes[channel].push(data, len(data))

    def on_message(self, message: Message, fields: Fields, size: int) -> None:
        """Take a control message."""
        if message is Message.END:
            number, errno, text = cast("tuple[int, int, str]", fields)
            kind = EndKind(number)
            self.check_end(kind)
            self.end = (kind, errno, text)
            self._finish()
        elif message is Message.CREDIT:
            channel, amount = cast("tuple[int, int]", fields)
            self._grant(channel, amount)
        elif message is Message.DISCARD:
            self._discard(cast("tuple[int]", fields)[0])
        else:
            self.on_answer(message, fields, size)

    def _grant(self, channel: int, amount: int) -> None:
        if self.outbox is None or channel != 0:
            raise ViolationError(Rule.CHANNEL_UNKNOWN)
        self.outbox.grant(amount)

    def _discard(self, channel: int) -> None:
        if self.outbox is None or channel != 0:
            raise ViolationError(Rule.CHANNEL_UNKNOWN)
        if self.outbox.broken:
            raise ViolationError(Rule.CHANNEL_ENDED)
        self.outbox.close()

    def check_end(self, kind: EndKind) -> None:
        """Raise ViolationError unless the stream may end like this now."""
        if kind not in {EndKind.OK, EndKind.ERRNO, EndKind.REFUSED}:
            self._only_when_closing(kind)

    def _only_when_closing(self, kind: EndKind) -> None:
        if kind is not EndKind.CANCELLED or not self._closing:
            raise ViolationError(Rule.STREAM_STATE)

    def on_answer(self, message: Message, fields: Fields, size: int) -> None:
        """Take a message that only some kinds of request have."""
        raise ViolationError(Rule.STREAM_STATE)


class CallExchange(Exchange):
    """A request that is answered by END alone."""

    def __init__(self, request: Message) -> None:
        super().__init__()
        self.request = request


class ReplyExchange(CallExchange):
    """A request with one answer before END: STAT, USAGE."""

    def __init__(self, request: Message, answer: Message) -> None:
        super().__init__(request)
        self.reply: Fields | None = None
        self._answer = answer

    def on_answer(self, message: Message, fields: Fields, size: int) -> None:  # noqa: D102
        if message is not self._answer or self.reply is not None:
            raise ViolationError(Rule.STREAM_STATE)
        self.reply = fields

    def check_end(self, kind: EndKind) -> None:  # noqa: D102
        super().check_end(kind)
        if kind is EndKind.OK and self.reply is None:
            raise ViolationError(Rule.STREAM_STATE)


class WriteExchange(Exchange):
    """WRITE: data to the guest under its credit."""

    request = Message.WRITE

    def bind(self, machine: Machine, ident: int) -> None:  # noqa: D102
        super().bind(machine, ident)
        self.outbox = Outbox(self.window)


class ReadExchange(Exchange):
    """READ: INFO, then at most ``length`` bytes."""

    request = Message.READ
    channels = 1

    def __init__(self, length: int) -> None:
        super().__init__()
        self.info: Fields | None = None
        self.opened = Latch()
        self._left = length

    def on_data(self, channel: int, data: bytes) -> None:  # noqa: D102
        if self.info is None:
            raise ViolationError(Rule.STREAM_STATE)
        super().on_data(channel, data)
        self._left -= len(data)
        if self._left < 0:
            raise ViolationError(Rule.DATA_LENGTH)

    def on_answer(self, message: Message, fields: Fields, size: int) -> None:  # noqa: D102
        if message is not Message.INFO or self.info is not None:
            raise ViolationError(Rule.STREAM_STATE)
        self.info = fields
        self.opened.set()

    def check_end(self, kind: EndKind) -> None:  # noqa: D102
        super().check_end(kind)
        if kind is EndKind.OK and self.info is None:
            raise ViolationError(Rule.STREAM_STATE)

    def _finish(self) -> None:
        super()._finish()
        self.opened.set()


class _ListExchange(Exchange):
    """A request answered by any number of items under credit."""

    def __init__(self, *, recursive: bool) -> None:
        super().__init__()
        self.items: Inbox[Fields] = Inbox(self, 0, 0)
        self._recursive = recursive

    def bind(self, machine: Machine, ident: int) -> None:
        super().bind(machine, ident)
        self.items = Inbox(self, 0, self.window)

    def forget(self) -> None:
        self.items.drop()

    def _finish(self) -> None:
        super()._finish()
        self.items.close()

    def _check_path(self, path: bytes) -> None:
        """Refuse a path that would leave the directory that was asked about."""
        parts = path.split(b"/")
        if (
            b"\0" in path
            or any(part in {b"", b".", b".."} for part in parts)
            or (len(parts) > 1 and not self._recursive)
        ):
            raise ViolationError(Rule.ENTRY_PATH)


class ScanExchange(_ListExchange):
    """SCAN: one ENTRY per name."""

    request = Message.SCAN

    def on_answer(self, message: Message, fields: Fields, size: int) -> None:  # noqa: D102
        if message is not Message.ENTRY:
            raise ViolationError(Rule.STREAM_STATE)
        self._check_path(cast("bytes", fields[0]))
        self.items.push(fields, size)


class WatchExchange(_ListExchange):
    """WATCH: one CHANGE per change, until the host closes it."""

    request = Message.WATCH

    def on_answer(self, message: Message, fields: Fields, size: int) -> None:  # noqa: D102
        if message is not Message.CHANGE:
            raise ViolationError(Rule.STREAM_STATE)
        kind, path = cast("tuple[int, bytes]", fields)
        if kind != _LOST:
            self._check_path(path)
        elif path:
            raise ViolationError(Rule.ENTRY_PATH)
        self.items.push(fields, size)


class ConnectExchange(Exchange):
    """CONNECT: bytes both ways."""

    request = Message.CONNECT
    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.connected = False
        self.opened = Latch()

    def bind(self, machine: Machine, ident: int) -> None:  # noqa: D102
        super().bind(machine, ident)
        self.outbox = Outbox(self.window)

    def on_data(self, channel: int, data: bytes) -> None:  # noqa: D102
        self._check_connected()
        super().on_data(channel, data)

    def on_message(self, message: Message, fields: Fields, size: int) -> None:  # noqa: D102
        if message in {Message.CREDIT, Message.DISCARD, Message.EOF}:
            self._check_connected()
        super().on_message(message, fields, size)

    def _check_connected(self) -> None:
        if not self.connected:
            raise ViolationError(Rule.STREAM_STATE)

    def on_answer(self, message: Message, fields: Fields, size: int) -> None:  # noqa: D102
        if message is Message.EOF:
            if fields[0] != 0:
                raise ViolationError(Rule.CHANNEL_UNKNOWN)
            self.inboxes[0].end()
        elif message is Message.CONNECTED and not self.connected:
            self.connected = True
            self.opened.set()
        else:
            raise ViolationError(Rule.STREAM_STATE)

    def check_end(self, kind: EndKind) -> None:  # noqa: D102
        super().check_end(kind)
        if kind is EndKind.OK and not self.connected:
            raise ViolationError(Rule.STREAM_STATE)

    def _finish(self) -> None:
        super()._finish()
        self.opened.set()


class ExecExchange(Exchange):
    """EXEC: STARTED, output, EXIT, and END once both outputs have ended.

    ``max_output`` counts both outputs together; what comes after it is dropped on both sides.
    """

    request = Message.EXEC
    channels = 2

    def __init__(self, *, stdin: bool, max_output: int) -> None:
        super().__init__()
        self.opened = Latch()
        """The program was started, or will never be."""
        self.exited = Latch()
        self.started = False
        self.exit: tuple[int, int] | None = None
        """Kind and value of EXIT."""
        self.truncated = False
        self._stdin = stdin
        self._left = max_output

    def bind(self, machine: Machine, ident: int) -> None:  # noqa: D102
        super().bind(machine, ident)
        if self._stdin:
            self.outbox = Outbox(self.window)

    def close(self) -> None:
        """Drop all output; the program runs on."""
        for inbox in self.inboxes:
            self.discard(inbox)

    def discard(self, inbox: Inbox[bytes], *, keep: bool = False) -> None:
        """Take no more of one output: the guest drains it to nowhere, so that the program runs on."""
        if not inbox.dropping:
            inbox.drop(keep=keep)
            if not inbox.ended:
                self.send(Message.DISCARD, inbox.channel)

    def on_data(self, channel: int, data: bytes) -> None:  # noqa: D102
        self._check_started()
        kept = data if len(data) <= self._left else data[: self._left]
        inbox = self.inboxes[channel]
        if not data:
            raise ViolationError(Rule.DATA_EMPTY)
        inbox.push(kept, len(data))
        self._left -= len(kept)
        if len(kept) < len(data) and not self.truncated:
            self._cut()

    def _cut(self) -> None:
        # control: resource.output
        if self.exit is None:
            self.truncated = True
        for inbox in self.inboxes:
            self.discard(inbox, keep=True)
        self.on_truncated()

    def on_message(self, message: Message, fields: Fields, size: int) -> None:  # noqa: D102
        if message not in {Message.STARTED, Message.END}:
            self._check_started()
        super().on_message(message, fields, size)

    def _check_started(self) -> None:
        if not self.started:
            raise ViolationError(Rule.EXEC_NOT_STARTED)

    def on_answer(self, message: Message, fields: Fields, size: int) -> None:  # noqa: D102
        if message is Message.EOF:
            self.inboxes[cast("int", fields[0])].end()
        elif message is Message.EXIT:
            self._exit(fields)
        elif message is Message.STARTED:
            if self.started:
                raise ViolationError(Rule.EXEC_STARTED_TWICE)
            self.started = True
            self.opened.set()
        else:
            raise ViolationError(Rule.STREAM_STATE)

    def _exit(self, fields: Fields) -> None:
        if self.exit is not None:
            raise ViolationError(Rule.EXEC_EXITED_TWICE)
        kind, value, pending = cast("tuple[int, int, int]", fields[:3])
        if kind == _SIGNALLED and not 1 <= value <= 64:  # Linux signal numbers
            raise ViolationError(Rule.MESSAGE_RANGE)
        if pending > self._left:
            self.truncated = True
        self.exit = (kind, value)
        if self.outbox is not None:
            self.outbox.close()
        self.on_exit()
        self.exited.set()

    def check_end(self, kind: EndKind) -> None:  # noqa: D102
        if kind is EndKind.OK:
            self._check_started()
            if self.exit is None or not all(inbox.ended for inbox in self.inboxes):
                raise ViolationError(Rule.EXEC_NOT_EXITED)
        elif self.started:
            raise ViolationError(Rule.EXEC_NOT_EXITED)
        elif kind not in {EndKind.REFUSED, EndKind.NOT_FOUND, EndKind.NOT_EXECUTABLE}:
            raise ViolationError(Rule.STREAM_STATE)

    def _finish(self) -> None:
        super()._finish()
        self.opened.set()
        self.exited.set()

    def finish_unopened(self) -> None:
        """End a request that was never sent."""
        self._finish()

    def on_truncated(self) -> None:
        """Called once, when the output limit is reached."""

    def on_exit(self) -> None:
        """Called once, when the program has ended."""
