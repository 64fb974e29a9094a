"""A TCP connection to the guest's loopback as an anyio byte stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from jubako.guest.wire import EndKind, Message

if TYPE_CHECKING:
    from jubako.guest.requests import ConnectExchange
    from jubako.guest.session import GuestSession

__all__ = ["PortStream"]


class PortStream(ByteStream):
    """Bytes both ways; made by ``GuestSession.connect``."""

    def __init__(self, session: GuestSession, exchange: ConnectExchange) -> None:
        self._session = session
        self._exchange = exchange
        self._closed = False
        self._finished = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return at least one byte. Raises anyio.EndOfStream when the guest's side has closed."""
        await checkpoint()
        inbox = self._exchange.inboxes[0]
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            data = inbox.take()
            if data is not None:
                if len(data) > max_bytes:
                    inbox.put_back(data[max_bytes:])
                    data = data[:max_bytes]
                return data
            if inbox.ended:
                if self._exchange.failure is not None:
                    raise self._exchange.failure
                end = self._exchange.end
                if end is not None and end[0] is EndKind.ERRNO:
                    raise anyio.BrokenResourceError
                raise anyio.EndOfStream
            await inbox.wait()

    async def send(self, item: bytes) -> None:
        """Send all of ``item``. Raises anyio.BrokenResourceError when the guest's side is gone."""
        await checkpoint()
        if self._closed or self._finished:
            raise anyio.ClosedResourceError
        await self._session.send_data(self._exchange, item)

    async def send_eof(self) -> None:
        """Close the sending half; receiving goes on."""
        if not self._finished and not self._closed:
            self._finished = True
            self._exchange.send(Message.EOF, 0)
        await checkpoint()

    async def aclose(self) -> None:
        """Close both halves; idempotent."""
        if not self._closed:
            self._closed = True
            self._exchange.close()
        await checkpoint()
