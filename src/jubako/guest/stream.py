"""A connected socket as an anyio byte stream, with a non-blocking fast path for small frames."""

from __future__ import annotations

import contextlib
from socket import SHUT_RDWR, SHUT_WR
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator

__all__ = ["SocketStream"]


class SocketStream(ByteStream):
    """Wraps a connected stream socket, which it owns from then on, without a backend's own wrapper."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003  # it takes no keywords
        self._socket = sock
        self._closed = False
        self._waiting = 0

    def send_nowait(self, data: bytes) -> int:
        """Return how many bytes the kernel took at once, 0 when it is full.

        Raises:
            anyio.BrokenResourceError: The peer is gone.
            anyio.ClosedResourceError: The stream was closed here.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send(self, item: bytes) -> None:
        """Send all of ``item``."""
        view = memoryview(item)
        while view:
            count = self.send_nowait(view)  # type: ignore[arg-type]  # send() takes any buffer
            view = view[count:]
            if view:
                with self._held():
                    await anyio.wait_writable(self._socket)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what is there, at least one byte. Raises anyio.EndOfStream when the peer has closed."""
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            try:
                data = self._socket.recv(max_bytes)
            except (BlockingIOError, InterruptedError):
                with self._held():
                    await anyio.wait_readable(self._socket)
                continue
            except OSError as error:
                raise anyio.BrokenResourceError from error
            if not data:
                raise anyio.EndOfStream
            return data

    @contextlib.contextmanager
    def _held(self) -> Generator[None]:
        """Keep the descriptor open for as long as a task waits on it.

        A task that was woken has not run yet, and on asyncio its leaving forgets whoever waits on that
        number by then: given away at once, the number would make another stream wait for ever.
        """
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if self._closed and not self._waiting:
                self._socket.close()

    async def send_eof(self) -> None:
        """Close the sending half."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(SHUT_WR)

    def close(self) -> None:
        """Close at once; idempotent."""
        if not self._closed:
            self._closed = True
            if self._waiting:
                with contextlib.suppress(OSError):  # the peer is gone already
                    self._socket.shutdown(SHUT_RDWR)
                # Wakes a task that waits in receive or send; the last one to wake closes the socket.
                with contextlib.suppress(RuntimeError):
                    anyio.notify_closing(self._socket)
            else:
                self._socket.close()

    async def aclose(self) -> None:
        """Close at once; idempotent."""
        self.close()
