"""The kinds of request beside programs: files, watches, ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, cast

from jubako.guest.channel import Inbox, Latch, Outbox
from jubako.guest.exchange import Exchange
from jubako.guest.wire import EndKind, Fields, Message, Rule, ViolationError

if TYPE_CHECKING:
    from jubako.guest.machine import Machine

__all__ = ["ConnectExchange", "ReadExchange", "ScanExchange", "WatchExchange", "WriteExchange"]

_LOST: Final = 4


class WriteExchange(Exchange):
    """WRITE: data to the guest under its credit."""

    request = Message.WRITE

    def bind(self, machine: Machine, ident: int) -> None:  # noqa: D102  # see Exchange
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

    def on_answer(self, message: Message, fields: Fields) -> None:  # noqa: D102
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

    item: ClassVar[Message]

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

    def on_message(self, message: Message, fields: Fields, size: int) -> None:
        if message is self.item:
            self.check_item(fields)
            self.items.push(fields, size)
        else:
            super().on_message(message, fields, size)

    def check_item(self, fields: Fields) -> None:
        """Raise ViolationError for an item that can't be true."""

    def check_path(self, path: bytes) -> None:
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
    item = Message.ENTRY

    def check_item(self, fields: Fields) -> None:  # noqa: D102
        self.check_path(cast("bytes", fields[0]))


class WatchExchange(_ListExchange):
    """WATCH: one CHANGE per change, until the host closes it."""

    request = Message.WATCH
    item = Message.CHANGE

    def check_item(self, fields: Fields) -> None:  # noqa: D102
        kind, path = cast("tuple[int, bytes]", fields)
        if kind != _LOST:
            self.check_path(path)
        elif path:
            raise ViolationError(Rule.ENTRY_PATH)


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

    def on_answer(self, message: Message, fields: Fields) -> None:  # noqa: D102
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
