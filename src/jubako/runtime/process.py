"""A running program, as callers hold it."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import anyio

from jubako.boundary.contract import TerminalSize
from jubako.errors import GuestConnectionError, InvalidRequestError, SandboxStateError
from jubako.runtime.attendance import Attendance, attend
from jubako.runtime.result import RunResult
from jubako.runtime.streams import AsyncReader, AsyncWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

    from jubako.boundary.contract import ExitStatus, Process
    from jubako.runtime.managed import ManagedSandbox

__all__ = ["AsyncProcess", "terminal_size"]

_LINGER: Final = 1.0


def terminal_size(rows: int, columns: int) -> TerminalSize:
    """Return the size when both sides are 1 to 4096. Raises InvalidRequestError."""
    if not (1 <= rows <= 4096 and 1 <= columns <= 4096):
        msg = f"a terminal of {rows} x {columns} is out of bounds"
        raise InvalidRequestError(
            msg, hint="rows and columns are 1 to 4096", details={"rows": rows, "columns": columns}
        )
    return TerminalSize(rows, columns)


class AsyncProcess:
    """A program that runs inside. As a context manager it ends the program on leaving.

    A program that writes a lot waits until its output is read. Reading one stream, or waiting,
    keeps the other stream in memory meanwhile, so that nothing blocks on what you don't read.
    """

    def __init__(self, raw: Process, sandbox: ManagedSandbox) -> None:
        self._raw = raw
        self._sandbox = sandbox
        self._started = time.monotonic()
        self._stdout = AsyncReader(raw.stdout)
        self._stderr = AsyncReader(raw.stderr)
        self._stdin = AsyncWriter(raw.stdin) if raw.stdin is not None else None
        self._status: ExitStatus | None = None

    @property
    def id(self) -> str:
        """The program's id within its sandbox, as events name it."""
        return self._raw.id

    @property
    def age(self) -> timedelta:
        """Wall time since it was started."""
        return timedelta(seconds=time.monotonic() - self._started)

    @property
    def stdout(self) -> AsyncReader:
        """The output; with a terminal everything."""
        return self._stdout

    @property
    def stderr(self) -> AsyncReader:
        """The error output; empty with a terminal."""
        return self._stderr

    @property
    def stdin(self) -> AsyncWriter:
        """The input. Raises SandboxStateError when the program was started without ``stdin=True``."""
        if self._stdin is None:
            msg = "the program was started without an open input"
            raise SandboxStateError(msg, hint="pass stdin=True to exec", details={"call": "stdin"})
        return self._stdin

    async def wait(self) -> ExitStatus:
        """Return how the program ended; unread output is kept in memory, up to the output limit."""
        if self._status is None:
            with self._sandbox.losing("wait"):
                self._status = await attend(self._raw.wait, self._stdout.drain, self._stderr.drain)
        return self._status

    async def result(self, stdin: bytes | str | None = None) -> RunResult:
        """Send ``stdin`` if given, read both streams to their ends, and return everything.

        Output of a background program that outlives this one is waited for a second at most.
        """
        out: list[bytes] = []
        err: list[bytes] = []

        async def collect_out(chunk: bytes) -> None:
            out.append(chunk)

        async def collect_err(chunk: bytes) -> None:
            err.append(chunk)

        async def pieces() -> AsyncIterator[bytes]:
            if stdin:
                yield stdin.encode() if isinstance(stdin, str) else stdin

        status = await self.forward(collect_out, collect_err, pieces() if self._stdin is not None else None)
        return RunResult.of(status, b"".join(out), b"".join(err), duration=self.age)

    async def forward(
        self,
        stdout: Callable[[bytes], Awaitable[None]],
        stderr: Callable[[bytes], Awaitable[None]],
        stdin: AsyncIterator[bytes] | None = None,
    ) -> ExitStatus:
        """Hand both outputs over as they come and send ``stdin``, until the program has ended; return how it did."""
        attendance = Attendance(_LINGER)

        async def feed() -> None:
            if stdin is None:
                return
            # A program that doesn't want all its input is its own affair.
            with attendance.until_end(), suppress(GuestConnectionError):
                async for piece in stdin:
                    await self.stdin.write(piece)
                await self.stdin.aclose()

        async def wait() -> ExitStatus:
            status = await self._raw.wait()
            attendance.end()
            return status

        with self._sandbox.losing("wait"):
            self._status = await attend(
                wait,
                partial(attendance.pump, self._stdout, stdout),
                partial(attendance.pump, self._stderr, stderr),
                feed,
                cancel=False,
            )
        return self._status

    async def signal(self, number: int) -> None:
        """Send a signal to the program and all its descendants; no error when they are gone."""
        await self._raw.signal(number)

    async def kill(self) -> None:
        """End the program and all its descendants; idempotent."""
        await self._raw.kill()

    async def resize(self, rows: int, columns: int) -> None:
        """Change the terminal's size. Raises SandboxStateError when the program has no terminal."""
        await self._raw.resize(terminal_size(rows, columns))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.kill()
