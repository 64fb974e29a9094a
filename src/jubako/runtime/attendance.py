"""Reading what a program says while waiting for its end."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio

from jubako.errors import JubakoError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from jubako.runtime.streams import AsyncReader

__all__ = ["Attendance", "attend"]

T = TypeVar("T")


class Attendance:
    """Reads streams to their ends, and after the program's end no longer than something keeps coming.

    A background program may hold a stream open for ever; a slow taker may have a lot still to take.
    So it is each wait for more that is limited after the end, not the whole.
    """

    def __init__(self, linger: float) -> None:
        self._linger = linger
        self._ended = False
        self._waiting: set[anyio.CancelScope] = set()
        self._until_end: set[anyio.CancelScope] = set()

    def end(self) -> None:
        """Say that the program has ended."""
        self._ended = True
        for scope in self._waiting:
            scope.deadline = anyio.current_time() + self._linger
        for scope in self._until_end:
            scope.cancel()

    async def pump(self, reader: AsyncReader, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand all chunks of one stream over."""
        while True:
            chunk = b""
            deadline = anyio.current_time() + self._linger if self._ended else math.inf
            with anyio.CancelScope(deadline=deadline) as scope:
                self._waiting.add(scope)
                try:
                    chunk = await reader.receive()
                finally:
                    self._waiting.discard(scope)
            if not chunk:
                return
            await take(chunk)

    @contextmanager
    def until_end(self) -> Generator[None]:
        """Leave the block when the program ends."""
        with anyio.CancelScope() as scope:
            self._until_end.add(scope)
            if self._ended:
                scope.cancel()
            yield


async def attend(wait: Callable[[], Awaitable[T]], *readers: Callable[[], Awaitable[None]], cancel: bool = True) -> T:
    """Return what ``wait`` returns, the readers at work beside it.

    They are cancelled at its end, or with ``cancel=False`` waited for. What they raise comes out as
    it is, not in a group.
    """
    failures: list[Exception] = []
    results: list[T] = []

    async def read(reader: Callable[[], Awaitable[None]]) -> None:
        try:
            await reader()
        except (JubakoError, OSError) as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for reader in readers:
            tasks.start_soon(read, reader)
        try:
            results.append(await wait())
        except JubakoError as error:
            failures.insert(0, error)
            cancel = True
        if cancel:
            tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return results[0]
