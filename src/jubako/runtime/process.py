"""A running program, as callers hold it."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import anyio

from jubako.boundary.contract import TerminalSize
from jubako.errors import GuestConnectionError, InvalidRequestError, JubakoError, SandboxStateError
from jubako.runtime.result import RunResult
from jubako.runtime.streams import AsyncReader, AsyncWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
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
                self._status = await _while_reading(self._raw.wait, self._stdout.drain, self._stderr.drain)
        return self._status

    async def result(self, stdin: bytes | str | None = None) -> RunResult:
        """Send ``stdin`` if given, read both streams to their ends, and return everything.

        Output of a background program that outlives this one is read for at most a second more.
        """
        out: list[bytes] = []
        err: list[bytes] = []
        readers = [partial(_collect, self._stdout, out), partial(_collect, self._stderr, err)]
        if self._stdin is not None:
            readers.append(partial(_feed, self._stdin, stdin))
        with self._sandbox.losing("result"):
            self._status = await _while_reading(self._raw.wait, *readers, linger=_LINGER)
        duration = timedelta(seconds=time.monotonic() - self._started)
        return RunResult.of(self._status, b"".join(out), b"".join(err), duration=duration)

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


async def _collect(reader: AsyncReader, into: list[bytes]) -> None:
    while chunk := await reader.receive():
        into.append(chunk)


async def _feed(writer: AsyncWriter, data: bytes | str | None) -> None:
    # A program that doesn't want all its input is its own affair.
    with suppress(GuestConnectionError):
        if data:
            await writer.write(data)
        await writer.aclose()


async def _while_reading(
    wait: Callable[[], Awaitable[ExitStatus]], *readers: Callable[[], Awaitable[None]], linger: float = 0.0
) -> ExitStatus:
    """Return what ``wait`` returns, the readers at work beside it and for ``linger`` seconds after it.

    What they raise comes out as it is, not in a group.
    """
    failures: list[JubakoError] = []
    left = len(readers)
    done = anyio.Event()

    async def read(reader: Callable[[], Awaitable[None]]) -> None:
        nonlocal left
        try:
            await reader()
        except JubakoError as error:
            failures.append(error)
        left -= 1
        if not left:
            done.set()

    status: ExitStatus | None = None
    async with anyio.create_task_group() as tasks:
        for reader in readers:
            tasks.start_soon(read, reader)
        try:
            status = await wait()
            with anyio.move_on_after(linger):
                await done.wait()
        except JubakoError as error:
            failures.insert(0, error)
        tasks.cancel_scope.cancel()
    if status is None or failures:
        raise failures[0]
    return status
