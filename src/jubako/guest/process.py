"""A program inside, as the contract's ``Process``."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream
from anyio.lowlevel import checkpoint

from jubako.boundary.contract import ExecRequest, ExitStatus, TerminalSize
from jubako.errors import InvalidRequestError, SandboxStateError
from jubako.guest.execution import ExecExchange
from jubako.guest.text import printable
from jubako.guest.wire import EndKind, Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jubako.guest.channel import Inbox
    from jubako.guest.session import GuestSession

__all__ = ["GuestProcess", "ProcessExchange"]

_SIGKILL: Final = 9
_SIGNALLED: Final = 1
_EXIT_CODES: Final = {EndKind.NOT_FOUND: 127, EndKind.NOT_EXECUTABLE: 126}
_ERRNO_LIMITS: Final = {errno.EAGAIN: "resource.processes", errno.ENOMEM: "resource.memory"}


class _ReceiveStream(ByteReceiveStream):
    """One output of a program."""

    def __init__(self, exchange: ExecExchange, inbox: Inbox[bytes]) -> None:
        self._exchange = exchange
        self._inbox = inbox
        self._closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return at least one byte. Raises anyio.EndOfStream at the end, InstanceLostError if the guest died."""
        await checkpoint()
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            data = self._inbox.take()
            if data is not None:
                if len(data) > max_bytes:
                    self._inbox.put_back(data[max_bytes:])
                    data = data[:max_bytes]
                return data
            if self._inbox.ended:
                if self._exchange.failure is not None:
                    raise self._exchange.failure
                raise anyio.EndOfStream
            await self._inbox.wait()

    async def aclose(self) -> None:
        """Drop all further output; the program does not notice."""
        self._closed = True
        self._exchange.discard(self._inbox)
        await checkpoint()


class _SendStream(ByteSendStream):
    """A program's stdin."""

    def __init__(self, session: GuestSession, exchange: ExecExchange) -> None:
        self._session = session
        self._exchange = exchange
        self._closed = False

    async def send(self, item: bytes) -> None:
        """Send all of ``item``. Raises anyio.BrokenResourceError when the program has ended or closed it."""
        await checkpoint()
        if self._closed:
            raise anyio.ClosedResourceError
        await self._session.send_data(self._exchange, item)

    async def aclose(self) -> None:
        """Let the program see the end of its input."""
        if not self._closed:
            self._closed = True
            outbox = self._exchange.outbox
            if outbox is not None and not outbox.broken:
                self._exchange.send(Message.EOF, 0)
        await checkpoint()


class ProcessExchange(ExecExchange):
    """The stream of one program, bound to its ``GuestProcess``."""

    process: GuestProcess

    def on_truncated(self) -> None:
        """Act on the output limit as the policy says."""
        self.process.on_truncated()

    def on_exit(self) -> None:
        """Fix the status while the limit counters are fresh."""
        self.process.on_exit()


class GuestProcess:
    """A program inside a sandbox; made by ``GuestSession.exec``."""

    def __init__(self, session: GuestSession, request: ExecRequest, before: Mapping[str, int]) -> None:
        self._session = session
        self._before = before
        self._tty = request.tty is not None
        self._timed_out = False
        self._status: ExitStatus | None = None
        self.exchange = ProcessExchange(stdin=request.stdin or self._tty, max_output=request.max_output)
        self.exchange.process = self
        self._stdin: _SendStream | None = None

    def attach(self) -> None:
        """Make the streams, once the exchange is open."""
        exchange = self.exchange
        self._stdout = _ReceiveStream(exchange, exchange.inboxes[0])
        self._stderr = _ReceiveStream(exchange, exchange.inboxes[1])
        if exchange.outbox is not None:
            self._stdin = _SendStream(self._session, exchange)

    @property
    def id(self) -> str:
        """Name of this program within its sandbox."""
        return f"exec-{self.exchange.ident}"

    @property
    def stdin(self) -> ByteSendStream | None:
        """The program's input, if one was asked for."""
        return self._stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """The program's output; with a terminal, all of it."""
        return self._stdout

    @property
    def stderr(self) -> ByteReceiveStream:
        """The program's error output."""
        return self._stderr

    async def wait(self) -> ExitStatus:
        """Return how the program ended. Raises InstanceLostError or ProtocolError if the sandbox died first."""
        await checkpoint()
        await self.exchange.exited.wait()
        if self._status is not None:
            return self._status
        if self.exchange.failure is not None:
            raise self.exchange.failure
        raise AssertionError  # exited is set with one or the other

    async def signal(self, number: int) -> None:
        """Signal the program and all its descendants."""
        if not 1 <= number <= 64:  # Linux signal numbers
            msg = f"{number} is not a signal number"
            raise InvalidRequestError(msg, details={"signal": number})
        if self.exchange.started:
            await self._session.call(Message.SIGNAL, (self.exchange.ident, number))

    async def kill(self) -> None:
        """End the program and all its descendants; returns when none is left."""
        if self.exchange.started:
            await self._session.kill_tree(self.exchange)

    async def resize(self, size: TerminalSize) -> None:
        """Change the terminal's size."""
        if not self._tty:
            raise SandboxStateError("the program has no terminal", details={"call": "resize"})
        check_size(size)
        self.exchange.send(Message.RESIZE, size.rows, size.columns)
        await checkpoint()

    # -- called by the session ----------------------------------------------------------------

    def on_truncated(self) -> None:
        """Kill the tree at the output limit if the policy wants that."""
        if self._session.config.on_limit == "kill":
            self._session.kill_soon(self.exchange)

    def on_exit(self) -> None:
        """Fix the status from EXIT."""
        if self.exchange.exit is None:
            raise AssertionError  # called by EXIT
        kind, value = self.exchange.exit
        after = self._session.counters()
        limits = {control for control, count in after.items() if count > self._before.get(control, 0)}
        limits |= self.exchange.reported
        signal = value if kind == _SIGNALLED else None
        oom = signal == _SIGKILL and "resource.memory" in limits
        if self.exchange.truncated:
            limits.add("resource.output")
        if self._timed_out:
            limits.add("time.exec")
        self._status = ExitStatus(
            code=None if kind == _SIGNALLED else value,
            signal=signal,
            oom=oom,
            timed_out=self._timed_out,
            truncated=self.exchange.truncated,
            limits=frozenset(limits),
        )

    def settle(self) -> None:
        """Fix the status of a program that could not be started. Raises InvalidRequestError if refused."""
        end = self.exchange.end
        if self.exchange.started or end is None:
            return
        kind, number, text = end
        code = _EXIT_CODES.get(kind)
        if code is None:
            raise InvalidRequestError(printable(text), details={"errno": number})
        self.refuse(code, printable(text), number)

    def refuse(self, code: int, message: str, number: int) -> None:
        """Fix the status of a program that could not be started."""
        limits = frozenset({_ERRNO_LIMITS[number]} if number in _ERRNO_LIMITS else ())
        self._status = ExitStatus(code=code, signal=None, limits=limits, message=message)

    async def enforce_timeout(self, seconds: float) -> None:
        """Kill the tree when the program runs longer than ``seconds``."""
        with anyio.move_on_after(seconds):
            await self.exchange.exited.wait()
            return
        self._timed_out = True  # control: time.exec
        await self._session.kill_tree(self.exchange)


def check_size(size: TerminalSize) -> None:
    """Raise InvalidRequestError for a terminal size out of bounds."""
    if not (1 <= size.rows <= 4096 and 1 <= size.columns <= 4096):  # the contract's bounds
        raise InvalidRequestError(
            "rows and columns are 1 to 4096", details={"rows": size.rows, "columns": size.columns}
        )
