"""The byte stream of a session: a reader that never waits for anybody, a writer with a bounded queue."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from jubako.errors import InstanceLostError
from jubako.guest.wire import ViolationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jubako.errors import JubakoError

__all__ = ["GuestStream", "Link"]

_CHUNK: Final = 262144
_BACKLOG: Final = 1048576
"""Bytes waiting for the guest above which callers wait before they add more."""


class GuestStream(Protocol):
    """What a session needs of its byte stream; ``send_nowait`` and ``close`` are used where present."""

    async def receive(self, max_bytes: int = 65536, /) -> bytes:
        """Return at least one byte, or raise anyio.EndOfStream."""
        ...

    async def send(self, item: bytes, /) -> None:
        """Send all of ``item``."""
        ...

    async def aclose(self) -> None:
        """Close."""
        ...


class Link:
    """Carries frames until one side closes. ``on_end`` may be called more than once."""

    def __init__(
        self, stream: GuestStream, *, on_data: Callable[[bytes], object], on_end: Callable[[JubakoError | None], None]
    ) -> None:
        self._stream = stream
        self._send_nowait: Callable[[bytes], int] | None = getattr(stream, "send_nowait", None)
        self._on_data = on_data
        self._on_end = on_end
        self._scope = anyio.CancelScope()
        self._closed = False
        self._pending: deque[bytes] = deque()
        self._size = 0
        self._wake = anyio.Event()
        self._room = anyio.Event()

    def send(self, data: bytes) -> None:
        """Send a whole frame now, or queue what the kernel does not take; frames never mix."""
        if self._closed:
            return
        if self._size == 0 and self._send_nowait is not None:
            try:
                data = data[self._send_nowait(data) :]
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                # The reader sees the end too, after what the guest still had to say.
                return
        if data:
            self._pending.append(data)
            self._size += len(data)
            self._wake.set()

    async def wait_for_room(self) -> None:
        """Return when the queue is short enough to add to."""
        while self._size > _BACKLOG and not self._closed:
            if self._room.is_set():
                self._room = anyio.Event()
            await self._room.wait()

    async def run(self) -> None:
        """Read and write until the end. Nothing escapes but cancellation from outside."""
        try:
            with self._scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._write)
                    await self._read()
                    group.cancel_scope.cancel()
        finally:
            self._on_end(InstanceLostError("the session with the sandbox was ended"))

    async def _read(self) -> None:
        receive, on_data = self._stream.receive, self._on_data
        try:
            while True:
                on_data(await receive(_CHUNK))
        except ViolationError as error:
            self._on_end(error)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            self._on_end(None)

    async def _write(self) -> None:
        try:
            while True:
                while self._pending:
                    data = self._pending.popleft()
                    await self._stream.send(data)
                    self._size -= len(data)
                    if self._size <= _BACKLOG:
                        self._room.set()
                self._wake = anyio.Event()
                await self._wake.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            # As in ``send``: the reader has the last word.
            pass

    def close(self) -> None:
        """Stop both directions at once; idempotent."""
        if not self._closed:
            self._closed = True
            self._pending.clear()
            self._room.set()
            self._scope.cancel()
            close = getattr(self._stream, "close", None)
            if close is not None:
                close()

    async def aclose(self) -> None:
        """Close the stream."""
        self.close()
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()
