"""A session's stream that outlives the sandbox at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from jubako.guest import SocketStream

__all__ = ["MovableStream"]


class MovableStream:
    """The stream to an agent that is written down, ended, and goes on from there at another socket.

    While held, the end of the socket is not the stream's: the reader waits, and nothing is sent.
    """

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._held = False
        self._closed = False
        self._moved = anyio.Event()
        self._ended = anyio.Event()

    def hold(self) -> None:
        """Expect the socket's end."""
        self._held, self._moved, self._ended = True, anyio.Event(), anyio.Event()

    async def ended(self) -> None:
        """Return once the held stream has read everything up to the socket's end."""
        await self._ended.wait()

    def move(self, stream: SocketStream) -> None:
        """Go on at another socket."""
        self._stream.close()
        self._stream = stream
        self.release()

    def release(self) -> None:
        """Go on; if the socket has ended, so has the stream."""
        self._held = False
        self._moved.set()

    def send_nowait(self, data: bytes) -> int:
        """Return how many bytes were taken at once. Raises as ``SocketStream`` does."""
        return 0 if self._held else self._stream.send_nowait(data)

    async def send(self, item: bytes, /) -> None:
        """Send all of ``item``. Raises as ``SocketStream`` does."""
        if self._held:
            await self._moved.wait()
        await self._stream.send(item)

    async def receive(self, max_bytes: int = 65536, /) -> bytes:
        """Return at least one byte. Raises as ``SocketStream`` does."""
        while True:
            try:
                return await self._stream.receive(max_bytes)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                if not self._held or self._closed:
                    raise
            self._ended.set()
            await self._moved.wait()

    def close(self) -> None:
        """Close at once; idempotent."""
        self._closed = True
        self._ended.set()
        self.release()
        self._stream.close()

    async def aclose(self) -> None:
        """Close at once; idempotent."""
        self.close()
