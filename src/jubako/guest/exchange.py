"""One request and its answers: which message may come when."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from jubako.guest.channel import Inbox, Latch, Outbox
from jubako.guest.wire import EndKind, Fields, Message, Rule, ViolationError

if TYPE_CHECKING:
    from jubako.errors import JubakoError
    from jubako.guest.machine import Machine

__all__ = ["CallExchange", "Exchange", "ReplyExchange"]


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
        """Take a control message; ``size`` is what an item of a list costs in credit."""
        del size
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
            self.on_answer(message, fields)

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

    def on_answer(self, message: Message, fields: Fields) -> None:
        """Take a message that only some kinds of request have."""
        del message, fields  # none fits here
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

    def on_answer(self, message: Message, fields: Fields) -> None:  # noqa: D102  # see Exchange
        if message is not self._answer or self.reply is not None:
            raise ViolationError(Rule.STREAM_STATE)
        self.reply = fields

    def check_end(self, kind: EndKind) -> None:  # noqa: D102
        super().check_end(kind)
        if kind is EndKind.OK and self.reply is None:
            raise ViolationError(Rule.STREAM_STATE)
