"""The two ends of a stream's channels, bounded by credit, and how tasks wait on them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from jubako.guest.wire import Message, Rule, ViolationError

if TYPE_CHECKING:
    from jubako.guest.exchange import Exchange

__all__ = ["Inbox", "Latch", "Outbox"]

_T = TypeVar("_T")


class Latch:
    """Something that happens once; needs no event loop until it is awaited."""

    __slots__ = ("_event", "_set")

    def __init__(self) -> None:
        self._set = False
        self._event: anyio.Event | None = None

    @property
    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._set

    def set(self) -> None:
        """Let it have happened; idempotent."""
        self._set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Return once it has happened."""
        if not self._set:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()


class _Changes:
    """Wakes everybody who waits for the next change."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


class Inbox(Generic[_T]):
    """What the guest sent on one channel and nobody has taken yet, bounded by credit."""

    __slots__ = ("_changes", "_credit", "_items", "_owed", "_stream", "channel", "dropping", "ended")

    def __init__(self, stream: Exchange, channel: int, window: int) -> None:
        self.channel = channel
        self.ended = False
        self.dropping = False
        self._stream = stream
        self._credit = window
        self._owed = 0
        self._items: deque[tuple[_T, int]] = deque()
        self._changes = _Changes()

    @property
    def credit(self) -> int:
        """What the guest may still send."""
        return self._credit

    @property
    def held(self) -> int:
        """What nobody has taken yet, in terms of credit."""
        return sum(size for _, size in self._items)

    def push(self, item: _T, size: int) -> None:
        """Keep an item that the guest sent. Raises ViolationError over the credit or after the end."""
        if self.ended:
            raise ViolationError(Rule.CHANNEL_ENDED)
        if size > self._credit:
            raise ViolationError(Rule.CREDIT_OVERRUN)
        self._credit -= size
        if item and not self.dropping:
            self._items.append((item, size))
            self._changes.notify()

    def end(self) -> None:
        """Note that the guest sends no more. Raises ViolationError when it said so before."""
        if self.ended:
            raise ViolationError(Rule.CHANNEL_ENDED)
        self.ended = True
        self._changes.notify()

    def close(self) -> None:
        """Let the end be seen, whether or not the guest said so."""
        self.ended = True
        self._changes.notify()

    def drop(self, *, keep: bool = False) -> None:
        """Take no more, and unless ``keep`` forget what is there."""
        self.dropping = True
        if not keep:
            self._items.clear()
        self._changes.notify()

    def take(self) -> _T | None:
        """Return the next item if there is one, and give the guest credit for it."""
        if not self._items:
            return None
        item, size = self._items.popleft()
        self._grant(size)
        return item

    def put_back(self, item: _T) -> None:
        """Return the rest of an item that was taken in part."""
        # The credit for all of it is given already; the rest is at most one frame.
        self._items.appendleft((item, 0))

    def _grant(self, size: int) -> None:
        self._owed += size
        if self._owed >= self._stream.window // 2 and not self.ended and not self.dropping:
            amount, self._owed = self._owed, 0
            self._credit += amount
            self._stream.send(Message.CREDIT, self.channel, amount)

    async def wait(self) -> None:
        """Return when there may be something new."""
        if not self._items and not self.ended:
            await self._changes.wait()

    async def next(self) -> _T | None:
        """Return the next item, or None at the end. Raises the session's failure."""
        while True:
            item = self.take()
            if item is not None:
                return item
            if self.ended:
                if self._stream.failure is not None:
                    raise self._stream.failure
                return None
            await self.wait()


class Outbox:
    """Credit that the guest gave for one stream."""

    __slots__ = ("_changes", "_window", "broken", "credit")

    def __init__(self, window: int) -> None:
        self.credit = window
        self.broken = False
        self._window = window
        self._changes = _Changes()

    def grant(self, amount: int) -> None:
        """Take credit. Raises ViolationError for none, or for more than was used."""
        if amount == 0 or self.broken or self.credit + amount > self._window:
            raise ViolationError(Rule.CREDIT_GRANT)
        self.credit += amount
        self._changes.notify()

    def close(self) -> None:
        """Note that the guest takes no more."""
        self.broken = True
        self._changes.notify()

    async def wait(self) -> None:
        """Return when there is credit, or when there will never be any."""
        while self.credit <= 0 and not self.broken:
            await self._changes.wait()
