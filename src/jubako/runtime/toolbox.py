"""The calls of one sandbox's programs to host functions: allow-list, schema, budgets, events.

What comes in is hostile and what goes out is what the function returned, an error that names no more
than a type, or what a ``ToolError`` says on purpose.
"""

from __future__ import annotations

import json
import re
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

from jubako.errors import JubakoError, ToolError
from jubako.events import LimitReached, ToolCalled
from jubako.runtime.tools import ArgumentsRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jubako.events import EventData, ToolVerdict
    from jubako.policy import ToolGrant
    from jubako.runtime.tools import Tool

__all__ = ["Toolbox"]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_AT_ONCE: Final = 64
_THREADS: Final = 8
_LOOK: Final = 0.02
_PATIENCE: Final = 1.0
_BURST: Final = 20.0
_PER_SECOND: Final = 1.0
_MESSAGE_LIMIT: Final = 4096


class _Refusal(Exception):  # noqa: N818  # an answer, not an error of ours
    """An answer other than a result; ``acted`` when the function ran nevertheless."""

    acted = False

    def __init__(self, verdict: ToolVerdict, code: str, message: str, hint: str = "", **more: object) -> None:
        super().__init__(message)
        self.verdict: ToolVerdict = verdict
        error = {"code": code, "message": message, "hint": hint, **more}
        self.answer = json.dumps({"error": {key: value for key, value in error.items() if value}}).encode()


class _Mishap(_Refusal):
    """What a call came to that did run the function."""

    acted = True


class Toolbox:
    """The ``ToolLink`` of one sandbox.

    Args:
        tools: The functions; those of other names are denied.
        grants: The policy's budgets by name; a tool without a grant is denied.
        emit: Records an event; what it raises ends the sandbox by ``fail``.
        fail: Told of what ``emit`` raised: what can't be recorded must not go on.
    """

    def __init__(
        self,
        tools: Iterable[Tool],
        grants: Mapping[str, ToolGrant],
        emit: Callable[[EventData], None],
        fail: Callable[[JubakoError], object],
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._grants = dict(grants)
        self._emit = emit
        self._fail = fail
        self._spent = dict.fromkeys(self._grants, 0)
        self._told: set[str] = set()
        self._refusals = _Refusals(emit)
        self._running = 0
        self._threads = _Slots(_THREADS)
        self._calls: set[anyio.CancelScope] = set()
        self._called = anyio.Event()
        self._closed = False
        self._sealed = False

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The functions, for a child of this sandbox."""
        return tuple(self._tools.values())

    @property
    def spent(self) -> dict[str, int]:
        """Calls made so far, by name."""
        return {name: count for name, count in self._spent.items() if count}

    def spend(self, calls: Mapping[str, int]) -> None:
        """Count these calls as made, by name: a child has what its parent had left."""
        for name, count in calls.items():
            if name in self._spent:
                self._spent[name] += count

    async def call(self, tool: str, arguments: bytes) -> bytes:
        """Return the answer, a JSON object with ``result`` or ``error``; raises only when cancelled."""
        started = time.monotonic()
        ended: _Refusal = _Mishap(
            "cancelled", "tool-denied", "the sandbox is ending"
        )  # acts, because it waits nowhere else
        scope = anyio.CancelScope()
        self._calls.add(scope)
        answer = b""
        try:
            with scope:
                try:
                    answer = await self._answer(tool, arguments)
                except _Refusal as refusal:
                    ended = refusal
        finally:
            self._calls.discard(scope)
            self._called.set()
            self._record(
                ToolCalled(
                    tool=tool if tool in self._grants or _NAME.fullmatch(tool) else "",
                    verdict="answered" if answer else ended.verdict,
                    seconds=round(time.monotonic() - started, 6),
                    bytes_in=len(arguments),
                    bytes_out=len(answer or ended.answer),
                ),
                acted=bool(answer) or ended.acted,
            )
        return answer or ended.answer

    async def aclose(self) -> None:
        """Cancel all calls, deny all further ones and record what is still to be told; nothing afterwards."""
        self._closed = True
        for scope in self._calls:
            scope.cancel()
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _PATIENCE):
            while self._calls:
                self._called = anyio.Event()
                await self._called.wait()
        sealed, self._sealed = self._sealed, True
        if not sealed:
            self._refusals.flush()

    async def _answer(self, name: str, arguments: bytes) -> bytes:
        tool, grant = self._granted(name)
        if len(arguments) > grant.request_bytes:
            text = f"the arguments are {len(arguments)} bytes; {grant.request_bytes} are allowed"
            raise _Refusal("too-large", "tool-request-too-large", text)
        try:
            given = tool.parse(arguments)
        except ArgumentsRefusedError as error:
            hint = "send a JSON object that fits the tool's schema"
            raise _Refusal("invalid", "tool-arguments", str(error), hint, problems=error.problems) from None
        if self._running >= _AT_ONCE:
            raise _Refusal("busy", "tool-busy", f"{_AT_ONCE} calls are running", "wait for one to end")
        self._count(name, grant)
        self._running += 1
        try:
            return await self._timed(tool, grant, given)
        finally:
            self._running -= 1

    def _granted(self, name: str) -> tuple[Tool, ToolGrant]:
        tool, grant = self._tools.get(name), self._grants.get(name)
        if tool is None or grant is None or self._closed:  # control: tool.calls
            known = ", ".join(sorted(self._tools.keys() & self._grants.keys()))
            text = "the policy grants no tool of that name"
            raise _Refusal("denied", "tool-denied", text, f"granted: {known}" if known else "")
        return tool, grant

    def _count(self, name: str, grant: ToolGrant) -> None:
        # Nothing is awaited between the question and the count, so the budget is exact. # control: tool.calls
        if self._spent[name] >= grant.calls:
            if name not in self._told:
                self._told.add(name)
                self._tell(LimitReached(control="tool.calls"))
            text = f"the budget of {grant.calls} calls is used up"
            raise _Refusal("over-budget", "tool-over-budget", text)
        self._spent[name] += 1

    async def _timed(self, tool: Tool, grant: ToolGrant, given: Mapping[str, Any]) -> bytes:
        data: bytes | None = None
        try:
            with anyio.move_on_after(grant.seconds):  # control: tool.calls
                data = _spelt(await self._perform(tool, given))
        except ToolError as error:
            hint = error.hint[:_MESSAGE_LIMIT]
            raise _Mishap("failed", error.code, error.message[:_MESSAGE_LIMIT], hint) from None
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the function raises is its answer
            # No more than the type: messages of foreign code hold paths, addresses, secrets.
            raise _Mishap("failed", "tool-failed", type(error).__name__) from None
        if data is None:
            raise _Mishap("timed-out", "tool-timed-out", f"no answer within {grant.seconds:g} s")
        if len(data) > grant.response_bytes:
            text = f"the answer is {len(data)} bytes; {grant.response_bytes} are allowed"
            raise _Mishap("too-large", "tool-response-too-large", text, "ask for less")
        return b'{"result":' + data + b"}"

    async def _perform(self, tool: Tool, given: Mapping[str, Any]) -> object:
        if tool.asynchronous:
            return await tool(**given)
        return await self._threads.run(partial(tool, **given))

    def _record(self, event: ToolCalled, *, acted: bool) -> None:
        if self._sealed:
            return
        if acted:
            self._tell(event)  # no more of them than the budget
            return
        try:
            self._refusals.add(event, event.tool if event.tool in self._grants else "")
        except JubakoError as error:
            self._lost(error)

    def _tell(self, data: EventData) -> None:
        try:
            self._emit(data)
        except JubakoError as error:
            self._lost(error)

    def _lost(self, error: JubakoError) -> None:
        # What can't be recorded must not go on.
        self._closed = True
        self._fail(error)


class _Refusals:
    """Records refused calls: each of them at first, later one event a second that counts the others."""

    def __init__(self, emit: Callable[[EventData], None]) -> None:
        self._emit = emit
        self._allowance = _BURST
        self._at = time.monotonic()
        self._folded: dict[tuple[str, str], ToolCalled] = {}

    def add(self, event: ToolCalled, tool: str) -> None:
        """Take one; ``tool`` is the name under which it is counted, of a bounded set."""
        now = time.monotonic()
        self._allowance = min(_BURST, self._allowance + (now - self._at) * _PER_SECOND)
        self._at = now
        key = (tool, event.verdict)
        waiting = self._folded.pop(key, None)
        if waiting is not None:
            event = _sum(waiting, event)
        if self._allowance < 1:
            self._folded[key] = event if waiting is not None else event.model_copy(update={"tool": tool})
            return
        self._allowance -= 1
        self._emit(event)

    def flush(self) -> None:
        """Record what was only counted so far."""
        folded, self._folded = self._folded, {}
        for event in folded.values():
            self._emit(event)


def _sum(waiting: ToolCalled, event: ToolCalled) -> ToolCalled:
    return waiting.model_copy(
        update={
            "count": waiting.count + event.count,
            "seconds": event.seconds,
            "bytes_in": waiting.bytes_in + event.bytes_in,
            "bytes_out": waiting.bytes_out + event.bytes_out,
        }
    )


class _Slots:
    """Worker threads of one sandbox's calls. One whose caller gave up holds its slot until it really ends."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    async def run(self, function: Callable[[], object]) -> object:
        """Return what the function returns, in a thread; cancelling leaves the thread behind."""
        # Looked at again and again, because threads whose callers gave up end without telling any event loop.
        while not self._free.acquire(blocking=False):  # noqa: ASYNC110  # see above
            await anyio.sleep(_LOOK)
        claim = threading.Lock()

        def work() -> object:
            if not claim.acquire(blocking=False):
                return None  # cancelled before it began
            try:
                return function()
            finally:
                self._free.release()

        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
        except BaseException:
            if claim.acquire(blocking=False):
                self._free.release()
            raise


def _spelt(result: object) -> bytes:
    from pydantic_core import to_json

    return to_json(result, inf_nan_mode="null")
