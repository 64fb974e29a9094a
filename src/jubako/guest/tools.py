"""Calls of programs inside to functions of the host: bounded in number, rate and size, one stream each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, cast

import anyio

from jubako.errors import JubakoError, LimitError
from jubako.guest.channel import Outbox
from jubako.guest.exchange import Exchange
from jubako.guest.wire import MAX_TOOL_ANSWER, EndKind, Fields, Message, Rule, ViolationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from jubako.boundary.contract import ToolLink
    from jubako.guest.machine import Machine
    from jubako.guest.session import GuestSession

__all__ = ["ToolCalls", "ToolExchange"]

_log: Final = logging.getLogger(__name__)
_FAILED: Final = b'{"error":{"code":"tool-failed","message":"the function failed on the host"}}'
_TOO_LARGE: Final = b'{"error":{"code":"tool-response-too-large","message":"the function returned too much"}}'


class ToolExchange(Exchange):
    """TOOLS: a stream that waits for one call of a program, and carries it."""

    request = Message.TOOLS
    channels = 1

    def __init__(self, on_call: Callable[[ToolExchange], None], on_end: Callable[[ToolExchange], None]) -> None:
        super().__init__()
        self.tool: bytes | None = None
        self.arguments = bytearray()
        self.scope: anyio.CancelScope | None = None
        """Where the call is served; cancelled when nobody waits for the answer any more."""
        self._left = 0
        self._answered = 0
        self._on_call = on_call
        self._on_end = on_end

    def bind(self, machine: Machine, ident: int) -> None:  # noqa: D102  # see Exchange
        super().bind(machine, ident)
        self.outbox = Outbox(self.window)

    def on_data(self, channel: int, data: bytes) -> None:  # noqa: D102
        if self.tool is None:
            raise ViolationError(Rule.STREAM_STATE)
        super().on_data(channel, data)
        self._left -= len(data)
        if self._left < 0:
            raise ViolationError(Rule.DATA_LENGTH)
        # Taken at once: what is kept is bounded by the size that the call announced.
        self.arguments += self.inboxes[0].take() or b""
        self._check_complete()

    def on_answer(self, message: Message, fields: Fields) -> None:  # noqa: D102
        if message is not Message.CALL or self.tool is not None:
            raise ViolationError(Rule.STREAM_STATE)
        self.tool, self._left = cast("tuple[bytes, int]", fields)
        self._check_complete()

    def _check_complete(self) -> None:
        if self._left == 0:
            self._on_call(self)

    def answer(self, size: int) -> None:
        """Announce the answer, which then goes as data."""
        self._answered = size
        self.send(Message.ANSWER, size)

    def check_end(self, kind: EndKind) -> None:  # noqa: D102
        super().check_end(kind)
        # Refused before a call only, failed after it only, done after the answer only.
        before = self.tool is None
        if (kind is EndKind.OK and not self._answered) or (kind is EndKind.ERRNO and before):
            raise ViolationError(Rule.STREAM_STATE)
        if kind is EndKind.REFUSED and not before:
            raise ViolationError(Rule.STREAM_STATE)

    def _grant(self, channel: int, amount: int) -> None:
        if not self._answered:
            raise ViolationError(Rule.STREAM_STATE)
        super()._grant(channel, amount)

    def _finish(self) -> None:
        super()._finish()
        self.arguments = bytearray()
        if self.scope is not None:
            self.scope.cancel()
        self._on_end(self)


class ToolCalls:
    """Serves the calls of one session's programs through its ``ToolLink``.

    As many streams as calls may run at once are kept waiting. Each is replaced when it has ended, at
    a bounded rate: a guest that does nothing but call keeps the host no busier than that.
    """

    def __init__(self, session: GuestSession, link: ToolLink, tasks: TaskGroup) -> None:
        self._session = session
        self._link = link
        self._tasks = tasks
        self._rate = session.config.limits.tool_rate
        self._allowed = float(self._rate)
        self._at = 0.0

    def open(self) -> None:
        """Let programs call."""
        self._at = anyio.current_time()
        for _ in range(self._session.config.limits.tool_calls):
            self._wait_for_call()

    def _wait_for_call(self) -> None:
        if not self._session.is_over:
            try:
                self._session.open_exchange(ToolExchange(self._called, self._ended), ())
            except LimitError:
                _log.warning("the session has used up its stream numbers: no more calls to host functions")

    def _called(self, exchange: ToolExchange) -> None:
        """Serve a call that has come in full."""
        self._tasks.start_soon(self._serve, exchange, name="jubako tool call")

    def _ended(self, exchange: ToolExchange) -> None:
        """Wait for another call, unless the guest takes no more requests."""
        if self._session.is_over or exchange.tool is None:
            return
        now = anyio.current_time()
        self._allowed = min(float(self._rate), self._allowed + (now - self._at) * self._rate) - 1
        self._at = now
        if self._allowed >= 0:
            self._wait_for_call()
        else:
            self._tasks.start_soon(self._wait_later, -self._allowed / self._rate)

    async def _wait_later(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._session.closed.wait()
        self._wait_for_call()

    async def _serve(self, exchange: ToolExchange) -> None:
        """Call the function and send its answer; nothing escapes but cancellation from outside."""
        with anyio.CancelScope() as exchange.scope:
            if exchange.is_over:
                return
            answer = await self._ask((exchange.tool or b"").decode("utf-8", "replace"), bytes(exchange.arguments))
            exchange.arguments = bytearray()
            exchange.answer(len(answer))
            try:
                await self._session.send_data(exchange, answer)
            except (anyio.BrokenResourceError, JubakoError):
                _log.debug("nobody waits for the answer to a call any more")

    async def _ask(self, tool: str, arguments: bytes) -> bytes:
        try:
            answer = await self._link.call(tool, arguments)
        except Exception:  # noqa: BLE001  # one failed call must not end the session; the program is told, the log says why
            _log.exception("a host function failed outside of its own bounds")
            return _FAILED
        return answer if 0 < len(answer) <= MAX_TOOL_ANSWER else _TOO_LARGE
