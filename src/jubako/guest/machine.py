"""The host's state machine over guest frames: no input or output of its own, every step bounded.

``Machine.feed`` takes whatever bytes arrived and raises ``ViolationError`` at the first frame that
breaks a rule. Memory is bounded by what the host itself asked for: data only under credit that the
host gave, every other message at most as often as the request's kind allows.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako.errors import LimitError
from jubako.guest.channel import Latch
from jubako.guest.wire import (
    GUEST_MESSAGES,
    HEADER,
    MAX_GUEST_PAYLOAD,
    Field,
    Fields,
    Message,
    Rule,
    ViolationError,
    decode,
    encode,
    frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jubako.errors import JubakoError
    from jubako.guest.exchange import Exchange

__all__ = ["Machine"]

_LAST_STREAM: Final = 2**32 - 1
_ALWAYS: Final = frozenset({Message.KILL, Message.SIGNAL, Message.TOOLS})
"""Requests that must get through however many others are open: they make room, or wait all the time."""
_MESSAGES: Final[Mapping[int, Message]] = MappingProxyType({int(message): message for message in Message})


class Machine:
    """One session: handshake, streams, frames.

    ``send`` takes whole frames for the guest. ``window`` is the credit of each channel of each
    stream, ``max_streams`` bounds the requests that are open at once.
    """

    def __init__(self, send: Callable[[bytes], None], *, window: int, max_streams: int) -> None:
        self.window = window
        self.frames = 0
        """Frames that came in full, the one that broke a rule included."""
        self.hello: Fields | None = None
        self.ready: Fields | None = None
        self.bye: Fields | None = None
        self.greeted = Latch()
        """HELLO has come, or the session is over."""
        self.prepared = Latch()
        """READY, or RENEWED from a restored child, has come, or the session is over."""
        self.answer: Fields | None = None
        """PREPARED, as the latest PREPARE was answered."""
        self.quiet = Latch()
        """PREPARED has come, or the session is over."""
        self.configured = False
        self.streams: dict[int, Exchange] = {}
        self._restored = False
        self._asked = False
        self._kept: list[bytes] | None = None
        """Frames that must not be sent yet."""
        self._pass = send
        self._max_streams = max_streams
        self._next = 1
        self._buffer = b""

    @property
    def buffered(self) -> int:
        """Bytes of a frame that has not come in full."""
        return len(self._buffer)

    # -- host to guest ----------------------------------------------------------------------

    def configure(self, fields: Sequence[Field]) -> None:
        """Answer HELLO."""
        self.configured = True
        self.send(Message.CONFIG, 0, fields)

    def renew(self, fields: Sequence[Field]) -> None:
        """Begin with a restored child, which has nothing to say before."""
        self.configured = self._restored = True
        self.send(Message.RENEW, 0, fields)

    def prepare(self) -> None:
        """Send PREPARE, and nothing more until ``release``."""
        self.answer, self.quiet, self._asked = None, Latch(), True
        self.send(Message.PREPARE, 0)
        self._kept = []

    def go_on(self) -> None:
        """Send CONTINUE, past all that is kept back."""
        self._pass(frame(Message.CONTINUE, 0))

    def release(self) -> None:
        """Send what was kept back."""
        kept, self._kept = self._kept or [], None
        for item in kept:
            self._pass(item)

    def _send(self, data: bytes) -> None:
        if self._kept is None:
            self._pass(data)
        else:
            self._kept.append(data)

    def send(self, kind: Message, stream: int, fields: Sequence[Field] = ()) -> None:
        """Send one control message."""
        self._send(frame(kind, stream, encode(kind, fields)))

    def send_data(self, stream: int, data: bytes) -> None:
        """Send bytes under credit that the caller has checked."""
        self._send(frame(Message.DATA, stream, data))

    def open(self, exchange: Exchange, payload: bytes) -> None:
        """Open a stream for a request.

        Raises:
            LimitError: Too many requests are open, or the session has used up its stream numbers.
        """
        crowded = len(self.streams) >= self._max_streams and exchange.request not in _ALWAYS
        if crowded or self._next > _LAST_STREAM:
            msg = f"{len(self.streams)} requests are open in this sandbox"
            raise LimitError(msg, details={"limit": self._max_streams})
        exchange.bind(self, self.take_number())
        self.streams[exchange.ident] = exchange
        self._send(frame(exchange.request, exchange.ident, payload))

    def take_number(self) -> int:
        """Return a stream number that nobody else gets."""
        self._next += 1
        return self._next - 1

    def abort(self, error: JubakoError) -> None:
        """End every open stream because the session is over."""
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.fail(error)
        self.greeted.set()
        self.prepared.set()
        self.quiet.set()

    # -- guest to host ----------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes from the guest.

        Raises:
            ViolationError: A frame broke a rule. The machine must not be fed again.
        """
        buffer = self._buffer + data if self._buffer else data
        size = len(buffer)
        at = 0
        header = HEADER.size
        while size - at >= header:
            length, kind, ident = HEADER.unpack_from(buffer, at)
            # Checked on the header alone, so that no more than one frame is ever kept.
            if length > MAX_GUEST_PAYLOAD:
                raise ViolationError(Rule.FRAME_SIZE)
            message = _MESSAGES.get(kind)
            if message is None:
                raise ViolationError(Rule.FRAME_TYPE)
            if message not in GUEST_MESSAGES:
                raise ViolationError(Rule.FRAME_DIRECTION)
            end = at + header + length
            if end > size:
                break
            self.frames += 1
            self._handle(message, ident, buffer[at + header : end])
            at = end
        self._buffer = buffer[at:] if at else buffer

    def _handle(self, message: Message, ident: int, payload: bytes) -> None:
        if ident == 0:
            self._handle_session(message, payload)
            return
        stream = self.streams.get(ident)
        if stream is None:
            raise ViolationError(Rule.STREAM_ENDED if ident < self._next else Rule.STREAM_UNKNOWN)
        if message is Message.DATA:
            stream.on_data(0, payload)
        elif message is Message.ERRDATA:
            stream.on_data(1, payload)
        else:
            stream.on_message(message, decode(message, payload), len(payload))
            if message is Message.END:
                self.streams.pop(ident, None)

    @property
    def _first_answer(self) -> Message:
        return Message.RENEWED if self._restored else Message.READY

    def _handle_session(self, message: Message, payload: bytes) -> None:
        if message in {Message.DATA, Message.ERRDATA} or self.bye is not None:
            raise ViolationError(Rule.SESSION_STATE)
        fields = decode(message, payload)
        if message is Message.HELLO and self.hello is None and not self._restored:
            self.hello = fields
            self.greeted.set()
        elif message is self._first_answer and self.configured and self.ready is None:
            self.ready = fields
            self.prepared.set()
        elif message is Message.PREPARED and self._asked:
            self._asked = False
            self.answer = fields
            self.quiet.set()
        elif message is Message.BYE and (self.hello is not None or self._restored):
            self.bye = fields
        else:
            raise ViolationError(Rule.SESSION_STATE)
