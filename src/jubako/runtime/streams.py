"""What a program says and hears, as text lines or bytes, with bounded memory."""

from __future__ import annotations

import codecs
from collections import deque
from typing import TYPE_CHECKING, Final, Self

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

from jubako.errors import GuestConnectionError

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream

__all__ = ["LINE_LIMIT", "AsyncConnection", "AsyncReader", "AsyncWriter"]

LINE_LIMIT: Final = 1024 * 1024
"""A longer line comes in pieces of this many bytes, the last one with the newline."""

_CHUNK: Final = 65536


class AsyncReader:
    r"""One output stream of a program: iterate over it for text lines, or read text or bytes.

    Text is UTF-8; what isn't shows as U+FFFD. Lines end with ``\n`` as in a Python file. While only
    one of the two streams of a program is read, the other is kept in memory, up to the output limit.
    """

    def __init__(self, raw: ByteReceiveStream) -> None:
        self._raw = raw
        self._chunks: deque[bytes] = deque()  # as they came; after them in order of reading:
        self._lines: deque[bytes] = deque()  # whole lines, and pieces of overlong ones
        self._rest = bytearray()  # the line that isn't whole yet
        self._ended = False
        self._lock = anyio.Lock(fast_acquire=True)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes as soon as there are some, at most ``max_bytes``; ``b""`` at the end."""
        if self._lines or self._rest:
            chunk = b"".join((*self._lines, self._rest))
            self._lines.clear()
            self._rest.clear()
        elif await self._fill():
            chunk = self._chunks.popleft()
        else:
            return b""
        if len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        return chunk

    async def read_bytes(self) -> bytes:
        """Return everything up to the end of the stream."""
        parts: list[bytes] = []
        while chunk := await self.receive():
            parts.append(chunk)
        return b"".join(parts)

    async def read(self) -> str:
        """Return everything up to the end of the stream as text."""
        return self._decoder.decode(await self.read_bytes(), final=True)

    async def readline(self) -> str:
        r"""Return the next line with its ``\n``; without one at the end of the output; ``""`` after that."""
        while (line := self.next_ready()) is None:
            if not await self._fill():
                rest = bytes(self._rest)
                self._rest.clear()
                return self._decoder.decode(rest, final=True)
            self._split(self._chunks.popleft())
        return line

    def next_ready(self) -> str | None:
        """Return the next line if one is here already. For blocking callers, which wait in another thread."""
        try:
            return self._decoder.decode(self._lines.popleft())
        except IndexError:
            return None

    def _split(self, chunk: bytes) -> None:
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            self._rest += part
            self._rest += b"\n"
            self._cut(1)
        self._rest += rest
        self._cut(LINE_LIMIT)

    def _cut(self, least: int) -> None:
        """Take lines off what is there, in bounded pieces, as long as it has ``least`` bytes."""
        while len(self._rest) >= least:
            self._lines.append(bytes(self._rest[:LINE_LIMIT]))
            del self._rest[:LINE_LIMIT]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def drain(self) -> None:
        """Keep everything up to the end of the stream in memory, so that the program never waits for a reader."""
        while not self._ended:
            async with self._lock:
                await self._receive()

    async def _fill(self) -> bool:
        """Return whether there is a chunk, waiting for it; False at the end."""
        while not self._chunks and not self._ended:
            async with self._lock:
                # A drain may have filled the queue while we waited for the lock.
                if not self._chunks:
                    await self._receive()
        return bool(self._chunks)

    async def _receive(self) -> None:
        if self._ended:
            return
        try:
            chunk = await self._raw.receive(_CHUNK)
        except (EndOfStream, ClosedResourceError):
            self._ended = True
        else:
            self._chunks.append(chunk)


class AsyncWriter:
    """The input of a program."""

    def __init__(self, raw: ByteSendStream) -> None:
        self._raw = raw

    async def write(self, data: bytes | str) -> None:
        """Send ``data`` (text as UTF-8), waiting while the program doesn't read.

        Raises GuestConnectionError when the program has closed its input or ended.
        """
        try:
            await self._raw.send(data.encode() if isinstance(data, str) else data)
        except (BrokenResourceError, ClosedResourceError) as error:
            msg = "the program has closed its input"
            raise GuestConnectionError(msg) from error

    async def aclose(self) -> None:
        """Let the program see the end of its input; idempotent."""
        await self._raw.aclose()


class AsyncConnection:
    """A stream to a TCP port inside; close it when done, or use it as a context manager."""

    def __init__(self, raw: ByteStream) -> None:
        self._raw = raw

    async def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises GuestConnectionError when the other side is gone."""
        try:
            await self._raw.send(data)
        except (BrokenResourceError, ClosedResourceError) as error:
            msg = "the connection is closed"
            raise GuestConnectionError(msg) from error

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes, at most ``max_bytes``; ``b""`` when the other side has finished."""
        try:
            return await self._raw.receive(max_bytes)
        except EndOfStream:
            return b""
        except (BrokenResourceError, ClosedResourceError) as error:
            msg = "the connection is closed"
            raise GuestConnectionError(msg) from error

    async def send_eof(self) -> None:
        """Tell the other side that no more bytes come; receiving goes on."""
        await self._raw.send_eof()

    async def aclose(self) -> None:
        """Close the connection; idempotent."""
        await self._raw.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
