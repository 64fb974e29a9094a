"""The exchange of one program: start, output under a limit, exit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from jubako.guest.channel import Inbox, Latch, Outbox
from jubako.guest.exchange import Exchange
from jubako.guest.wire import EndKind, Fields, Message, Rule, ViolationError

if TYPE_CHECKING:
    from jubako.guest.machine import Machine

__all__ = ["ExecExchange"]

_SIGNALLED: Final = 1
_LAST_SIGNAL: Final = 64
_REPORTED: Final = ((1, "resource.memory"), (2, "resource.open-files"), (4, "time.exec"))
"""The bits of EXIT's limits."""


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
        self.reported: frozenset[str] = frozenset()
        """Limits that the agent says the program ran into: those of a launcher that knows them better."""
        self.truncated = False
        self._stdin = stdin
        self._left = max_output

    def bind(self, machine: Machine, ident: int) -> None:  # noqa: D102  # see Exchange
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
        if self.exit is None:
            self.truncated = True  # control: resource.output
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

    def on_answer(self, message: Message, fields: Fields) -> None:  # noqa: D102
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
        self.reported = frozenset(name for bit, name in _REPORTED if cast("int", fields[6]) & bit)
        if kind == _SIGNALLED and not 1 <= value <= _LAST_SIGNAL:
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
