"""Drivers that break a promise about what programs read and write."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from jubako.boundary.contract import ExecRequest
from jubako.errors import JubakoError
from jubako.testing.broken._delegate import BrokenDriver, BrokenInstance, BrokenProcess
from jubako.testing.conformance import collect

if TYPE_CHECKING:
    from jubako.boundary.contract import ExitStatus, Process

__all__ = ["STREAM_DEFECTS"]

_LIMITED: Final = frozenset({"output.limit", "output.limit-both", "tty.output-limit"})

_DEFAULT_OUTPUT: Final = ExecRequest(("true",)).max_output


class _Receive(ByteReceiveStream):
    """A stream passed through; pieces that are left over come first."""

    def __init__(self, inner: ByteReceiveStream) -> None:
        self.inner = inner
        self.left: deque[bytes] = deque()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self.left:
            self.left.append(await self.fetch(max_bytes))
        piece = self.left.popleft()
        if len(piece) > max_bytes:
            self.left.appendleft(piece[max_bytes:])
        return piece[:max_bytes]

    async def fetch(self, max_bytes: int) -> bytes:
        """Hook: get the next piece."""
        return await self.inner.receive(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


class _Wrapping(BrokenProcess):
    """A program whose output streams are wrapped, each once."""

    receive_type: type[_Receive] = _Receive

    def __init__(self, inner: Process, request: ExecRequest, owner: BrokenInstance) -> None:
        super().__init__(inner, request, owner)
        self._out: _Receive = self.receive_type(inner.stdout)
        self._err: _Receive = self.receive_type(inner.stderr)

    @property
    def stdout(self) -> ByteReceiveStream:
        """Standard output, wrapped."""
        return self._out

    @property
    def stderr(self) -> ByteReceiveStream:
        """Standard error, wrapped."""
        return self._err


class DecodesText(BrokenDriver):
    """Takes output for text and loses what is none."""

    breaks = frozenset({"exec.argv-bytes", "exec.stdin-echo", "files.roundtrip", "output.binary", "output.utf8-split"})

    class _Process(_Wrapping):
        class _Stream(_Receive):
            async def fetch(self, max_bytes: int) -> bytes:
                """Decode and encode each piece."""
                return (await super().fetch(max_bytes)).decode("utf-8", "replace").encode()

        receive_type = _Stream

    process_type = _Process


class MergesStreams(BrokenDriver):
    """Gives standard error as part of standard output."""

    breaks = frozenset({
        "exec.concurrent", "output.after-exit", "output.binary", "output.both-streams",
        "preload.request", "time.output-kept",
    })  # fmt: skip

    class _Process(_Wrapping):
        def __init__(self, inner: Process, request: ExecRequest, owner: BrokenInstance) -> None:
            super().__init__(inner, request, owner)

            class Both(_Receive):
                async def fetch(self, max_bytes: int) -> bytes:
                    try:
                        return await super().fetch(max_bytes)
                    except anyio.EndOfStream:
                        return await inner.stderr.receive(max_bytes)

            class Nothing(_Receive):
                async def fetch(self, max_bytes: int) -> bytes:
                    del max_bytes
                    raise anyio.EndOfStream

            self._out, self._err = Both(inner.stdout), Nothing(inner.stderr)

    process_type = _Process


class MixesOutputs(BrokenDriver):
    """Swaps pieces between programs when many run at once."""

    breaks = frozenset({"exec.concurrent"})
    reach = frozenset({"exec.many"})

    class _Instance(BrokenInstance):
        held: bytes = b""

    class _Process(_Wrapping):
        def __init__(self, inner: Process, request: ExecRequest, owner: BrokenInstance) -> None:
            super().__init__(inner, request, owner)

            class Mixed(_Receive):
                async def fetch(self, max_bytes: int) -> bytes:
                    piece = await super().fetch(max_bytes)
                    if isinstance(owner, MixesOutputs._Instance) and "exec.many" in owner.driver.trace:
                        owner.held, piece = piece, owner.held or piece
                    return piece

            self._out = Mixed(inner.stdout)

    instance_type = _Instance
    process_type = _Process


class HidesTruncation(BrokenDriver):
    """Cuts output without saying so."""

    breaks = _LIMITED
    reach = frozenset({"status.truncated"})

    def change_status(self, status: ExitStatus) -> ExitStatus:
        """Drop the flag."""
        return replace(status, truncated=False)


class CutsLate(BrokenDriver):
    """Keeps one byte more than allowed."""

    breaks = _LIMITED
    reach = frozenset({"exec.max_output"})

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Allow one more."""
        return replace(request, max_output=request.max_output + 1)


class CutsEarly(BrokenDriver):
    """Calls output of exactly the limit too much."""

    breaks = _LIMITED | {"output.limit-exact"}
    reach = frozenset({"exec.max_output"})

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Allow one less."""
        return replace(request, max_output=request.max_output - 1)


class KillsAtLimit(BrokenDriver):
    """Kills a program that writes too much instead of letting it finish."""

    breaks = _LIMITED
    reach = frozenset({"status.truncated"})

    def change_status(self, status: ExitStatus) -> ExitStatus:
        """Say what would have come of it."""
        return replace(status, code=None, signal=9) if status.truncated else status


class _Endless:
    """A buffer without a limit."""

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._ended = False
        self._changed = anyio.Event()

    def put(self, item: bytes) -> None:
        """Take an item at once."""
        self._items.append(item)
        self._changed.set()

    def end(self) -> None:
        """Let there be no more items."""
        self._ended = True
        self._changed.set()

    async def get(self) -> bytes:
        """Return the next item. Raises EndOfStream after the last."""
        while not self._items:
            if self._ended:
                raise anyio.EndOfStream
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._items.popleft()


class KeepsUnread(BrokenDriver):
    """Buffers output without end when nobody reads it."""

    breaks = frozenset({"output.backpressure"})
    reach = frozenset({"exec.max_output"})

    class _Process(_Wrapping):
        def __init__(self, inner: Process, request: ExecRequest, owner: BrokenInstance) -> None:
            super().__init__(inner, request, owner)
            if request.max_output == _DEFAULT_OUTPUT:
                return
            buffer = _Endless()

            async def pump() -> None:
                with contextlib.suppress(JubakoError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                    async for chunk in inner.stdout:
                        buffer.put(chunk)
                buffer.end()

            class Buffered(_Receive):
                async def fetch(self, max_bytes: int) -> bytes:
                    del max_bytes
                    return await buffer.get()

            owner.context.tasks.start_soon(pump)
            self._out = Buffered(inner.stdout)

    process_type = _Process


class _Droppable(_Receive):
    touched = dropped = False

    async def fetch(self, max_bytes: int) -> bytes:
        """Give nothing once it was dropped."""
        if self.dropped:
            raise anyio.EndOfStream
        self.touched = True
        return await super().fetch(max_bytes)


class DropsUnread(BrokenDriver):
    """Throws output away that nobody read before the program ended."""

    breaks = frozenset({"output.after-exit"})

    class _Process(_Wrapping):
        receive_type = _Droppable

        async def wait(self) -> ExitStatus:
            """Wait, then drop what nobody asked for."""
            status = await super().wait()
            await anyio.lowlevel.checkpoint()  # whoever is about to read begins now
            for stream in (self._out, self._err):
                if isinstance(stream, _Droppable) and not stream.touched:
                    stream.dropped = True
            return status

    process_type = _Process


class IgnoresChunkSize(BrokenDriver):
    """Gives more bytes at once than were asked for."""

    breaks = frozenset({"output.chunk-size"})

    class _Process(_Wrapping):
        class _Stream(_Receive):
            async def receive(self, max_bytes: int = 65536) -> bytes:
                """Ask for as much as there is."""
                return await super().receive(max(max_bytes, 65536))

        receive_type = _Stream

    process_type = _Process


class WaitsForBackground(BrokenDriver):
    """Returns from wait only when what was left in the background has ended too, for some seconds."""

    breaks = frozenset({"exec.wait-background"})
    reach = frozenset({"wait"})

    class _Process(BrokenProcess):
        async def wait(self) -> ExitStatus:
            """Wait, then look for processes that carry the program's variable."""
            status = await super().wait()
            mark = f"[P]YTHONBROKEN={self.request.env['PYTHONBROKEN']}"
            look = ExecRequest(("grep", "-lasz", "-e", mark, *(f"/proc/{number}/environ" for number in range(2, 100))))
            with anyio.move_on_after(8), contextlib.suppress(JubakoError):
                while (await collect(await self.owner.inner.exec(look))).stdout:  # noqa: ASYNC110  # the defect
                    await anyio.sleep(0.1)
            return status

    class _Instance(BrokenInstance):
        async def exec(self, request: ExecRequest) -> Process:
            """Mark the program."""
            marked = replace(request, env={**request.env, "PYTHONBROKEN": str(len(self.processes))})
            return await super().exec(marked)

    instance_type = _Instance
    process_type = _Process


class StdinStaysOpen(BrokenDriver):
    """Never tells the program that its input is over."""

    breaks = frozenset({"exec.stdin-eof", "exec.stdin-large", "preload.request"})
    reach = frozenset({"exec.stdin"})

    class _Process(BrokenProcess):
        @property
        def stdin(self) -> ByteSendStream | None:
            """Standard input that can't be closed."""
            inner = self.inner.stdin
            return None if inner is None else _Unclosable(inner)

    process_type = _Process


class TakesAllInput(BrokenDriver):
    """Buffers input without end for a program that doesn't read."""

    breaks = frozenset({"exec.stdin-backpressure", "exec.stdin-program-gone"})
    reach = frozenset({"exec.stdin"})

    class _Process(BrokenProcess):
        def __init__(self, inner: Process, request: ExecRequest, owner: BrokenInstance) -> None:
            super().__init__(inner, request, owner)
            self._queue: _Queue | None = None
            if inner.stdin is not None:
                self._queue = _Queue(inner.stdin)
                owner.context.tasks.start_soon(self._queue.pump)

        @property
        def stdin(self) -> ByteSendStream | None:
            """Standard input without backpressure."""
            return self._queue

    process_type = _Process


class _Unclosable(ByteSendStream):
    def __init__(self, inner: ByteSendStream) -> None:
        self._inner = inner

    async def send(self, item: bytes) -> None:
        await self._inner.send(item)

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


class _Queue(ByteSendStream):
    def __init__(self, inner: ByteSendStream) -> None:
        self._inner = inner
        self._buffer = _Endless()

    async def pump(self) -> None:
        """Pass on what was taken, at the program's pace."""
        with contextlib.suppress(JubakoError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    await self._inner.send(await self._buffer.get())
            await self._inner.aclose()

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self._buffer.put(item)

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._buffer.end()


STREAM_DEFECTS: Final[tuple[type[BrokenDriver], ...]] = (
    DecodesText,
    MergesStreams,
    MixesOutputs,
    HidesTruncation,
    CutsLate,
    CutsEarly,
    KillsAtLimit,
    KeepsUnread,
    DropsUnread,
    IgnoresChunkSize,
    WaitsForBackground,
    StdinStaysOpen,
    TakesAllInput,
)
