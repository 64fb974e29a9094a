"""One session with one agent: the background reader and writer, and what callers can ask for."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Self, cast

import anyio
from anyio.lowlevel import checkpoint

from jubako.boundary.contract import ExecRequest, Usage
from jubako.errors import (
    GuestConnectionError,
    InstanceLostError,
    InvalidRequestError,
    JubakoError,
    LaunchError,
    ProtocolError,
)
from jubako.guest.config import AgentHello, SessionConfig, SessionHooks
from jubako.guest.exchange import CallExchange, Exchange, ReplyExchange
from jubako.guest.fields import config_fields, exec_fields, identity_fields
from jubako.guest.files import GuestFiles
from jubako.guest.link import GuestStream, Link
from jubako.guest.machine import Machine
from jubako.guest.ports import PortStream
from jubako.guest.process import GuestProcess
from jubako.guest.renewal import Stillness, hello_of_child
from jubako.guest.requests import ConnectExchange
from jubako.guest.text import printable
from jubako.guest.tools import ToolCalls
from jubako.guest.wire import (
    MAX_DATA,
    MAX_HOST_PAYLOAD,
    PROTOCOL,
    EndKind,
    Field,
    Fields,
    Message,
    ViolationError,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from anyio.abc import TaskGroup

    from jubako.boundary.contract import Files, ToolLink
    from jubako.guest.execution import ExecExchange
    from jubako.guest.renewal import Identity

__all__ = ["GuestSession"]

_log: Final = logging.getLogger(__name__)
_STOP_MARGIN: Final = 5.0


class GuestSession:
    """A session with an agent that is ready to serve; made by ``open``."""

    def __init__(
        self,
        stream: GuestStream,
        *,
        tasks: TaskGroup,
        config: SessionConfig,
        hooks: SessionHooks,
        tools: ToolLink | None = None,
    ) -> None:
        self.config = config
        self.closed = anyio.Event()
        self.failure: JubakoError | None = None
        self._tasks = tasks
        self._hooks = hooks
        self._over = False
        self._stopping = False
        limits = config.limits
        self._link = Link(stream, on_data=self._feed, on_end=self._ended)
        self._max_streams = limits.streams + (limits.tool_calls if tools is not None else 0)
        self.machine = Machine(self._link.send, window=limits.window, max_streams=self._max_streams)
        seconds = config.launcher.ready.total_seconds() if config.launcher is not None else 0.0
        self._stillness = Stillness(self.machine, seconds)
        self._tools = ToolCalls(self, tools, tasks) if tools is not None else None
        self._files = GuestFiles(self)

    # -- opening and closing ------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        stream: GuestStream,
        *,
        tasks: TaskGroup,
        config: SessionConfig,
        hooks: SessionHooks,
        tools: ToolLink | None = None,
    ) -> Self:
        """Return a session whose agent has answered and is ready; programs inside can call ``tools``.

        Raises:
            LaunchError: The agent died, was silent for too long, or could not do what ``config`` requires.
            ProtocolError: The guest broke the protocol.
        """
        session = cls(stream, tasks=tasks, config=config, hooks=hooks, tools=tools)
        await session._begin(session._handshake)
        return session

    @classmethod
    async def resume(
        cls,
        stream: GuestStream,
        *,
        tasks: TaskGroup,
        config: SessionConfig,
        hooks: SessionHooks,
        identity: Identity,
        tools: ToolLink | None = None,
    ) -> Self:
        """Return a session with the agent of a restored child, which has become ``identity``.

        ``config`` is the source's; its limits are the host's own and may differ. A source that a snapshot
        ends is resumed the same way, as itself.

        Raises:
            LaunchError: The agent did not answer, or kept a part of its source's identity.
            ProtocolError: The guest broke the protocol.
        """
        session = cls(stream, tasks=tasks, config=config, hooks=hooks, tools=tools)
        await session._begin(partial(session._renew, identity))
        return session

    async def _begin(self, handshake: Callable[[], Awaitable[None]]) -> None:
        self._tasks.start_soon(self._link.run, name="jubako guest session")
        try:
            with anyio.fail_after(self.config.limits.handshake.total_seconds()):
                await handshake()
        except TimeoutError as error:
            await self.aclose()
            raise LaunchError("the agent did not answer in time") from error
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        if self._tools is not None:
            self._tools.open()

    async def _renew(self, identity: Identity) -> None:
        machine = self.machine
        machine.renew(identity_fields(identity, self.config.limits, self._max_streams, tools=self._tools is not None))
        await machine.prepared.wait()
        if machine.ready is None or isinstance(self.failure, ProtocolError):
            self._check_start()
        self._hello = hello_of_child(cast("Fields", machine.ready))

    async def _handshake(self) -> None:
        machine = self.machine
        await machine.greeted.wait()
        if machine.hello is None:
            self._check_start()
        hello = cast("tuple[int, str, str, int, int]", machine.hello)
        if hello[0] != PROTOCOL:
            msg = f"the agent speaks protocol {hello[0]}, this host {PROTOCOL}"
            raise LaunchError(msg, hint="rebuild the agent for this version")
        machine.configure(config_fields(self.config, self._max_streams, tools=self._tools is not None))
        await machine.prepared.wait()
        self._check_start()
        features, abi, applied, note = cast("tuple[list[bytes], int, int, str]", machine.ready)
        names = frozenset(name.decode("ascii", "replace") for name in features)
        self._hello = AgentHello(*hello, names, abi, bool(applied), printable(note))
        if self.config.landlock is not None and self.config.landlock.required and not applied:
            msg = f"the second wall around files could not be built: {printable(note)}"
            raise LaunchError(msg)

    def _check_start(self) -> None:
        if self.failure is not None:
            if isinstance(self.failure, ProtocolError):
                raise self.failure
            msg = f"the agent did not start: {self.failure.message}"
            raise LaunchError(msg) from self.failure

    def launch(self) -> None:
        """Have the launcher started, if there is one; else its first program starts it.

        To be called when the sandbox's walls and limits stand: it is the first that runs inside besides the agent.
        """
        if self.config.launcher is not None and not self._over:
            self.machine.send(Message.LAUNCH, 0)

    async def shutdown(self, grace: timedelta) -> None:
        """Ask everything inside to end (SIGTERM), then end it; afterwards the session is closed.

        The agent itself ends too. Returns after ``grace`` and a short margin at the latest, also
        when the agent does not answer; whether everything is dead is for the driver to see.
        """
        seconds = max(0.0, grace.total_seconds())
        if not self._over:
            self._stopping = True
            self._stillness.end()
            self.machine.send(Message.SHUTDOWN, 0, (min(round(seconds * 1000), 2**32 - 1),))
            with anyio.move_on_after(seconds + _STOP_MARGIN):
                await self.closed.wait()
        await self.aclose()

    async def aclose(self) -> None:
        """Close the stream, upon which the agent kills everything and exits; idempotent."""
        self._finish(None)
        await self._link.aclose()
        await checkpoint()

    # -- snapshots ----------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Return once nothing inside moves, so that a snapshot can be made; ``proceed`` must follow.

        Requests made until then wait. A launcher that is still starting is waited for.

        Raises:
            SandboxStateError: Programs run, or requests are open; details count the programs.
            InstanceLostError: The sandbox died.
        """
        self.check_open()
        self._stillness.begin()
        try:
            await self._stillness.settled()
        except TimeoutError as error:
            self._finish(InstanceLostError("the agent did not become still for a snapshot, so the sandbox was killed"))
            self._guard(self._hooks.kill_instance)
            raise InstanceLostError("the agent did not become still for a snapshot") from error
        except JubakoError:
            raise
        except BaseException:
            self._tasks.start_soon(self._give_up)
            raise

    async def _give_up(self) -> None:
        """Undo a ``prepare`` whose caller is gone."""
        try:
            await self._stillness.settled()
        except (JubakoError, TimeoutError):
            _log.debug("the sandbox was not still in the end")
        self.proceed()

    def proceed(self) -> None:
        """Let the sandbox go on after a snapshot, or after the attempt; idempotent."""
        self._stillness.end()

    # -- the end ------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        self.machine.feed(data)

    def _ended(self, error: JubakoError | None) -> None:
        """Take the end of the link; None means that the guest's side has closed."""
        bye = self.machine.bye
        if error is None and bye is not None:
            text = printable(str(bye[1]))
            error = InstanceLostError(f"the sandbox was stopped: {text}" if text else "the sandbox was stopped")
        self._finish(error or InstanceLostError("the sandbox died"))

    def _finish(self, error: JubakoError | None) -> None:
        """End the session once: everybody who waits learns why."""
        if self._over:
            return
        self._over = True
        if not self._stopping or isinstance(error, ProtocolError):
            self.failure = error
        self.machine.abort(error or InstanceLostError("the session with the sandbox was closed"))
        self._link.close()
        self._stillness.end()
        if isinstance(error, ViolationError):
            _log.warning("agent protocol violation: %s", error.rule)
            self._guard(self._hooks.on_violation, str(error.rule))
            self._guard(self._hooks.kill_instance)
        self.closed.set()

    def _guard(self, hook: Callable[..., object], *args: str) -> None:
        """Call a hook whose failure must not keep the session from ending."""
        try:
            hook(*args)
        except Exception:  # noqa: BLE001  # the session is over either way; the driver's bug is logged, not hidden
            _log.exception("a session hook failed")

    # -- requests -----------------------------------------------------------------------------

    async def send_data(self, exchange: Exchange, data: bytes | memoryview) -> None:
        """Send bytes on a stream as far and as fast as the guest gives credit.

        Raises:
            anyio.BrokenResourceError: The guest takes no more.
        """
        outbox = exchange.outbox
        view = memoryview(data)
        while view:
            if outbox is not None and not outbox.broken:
                await outbox.wait()
            if outbox is None or outbox.broken or exchange.is_over:
                raise exchange.failure or anyio.BrokenResourceError
            await self._link.wait_for_room()
            part = view[: min(outbox.credit, MAX_DATA)]
            outbox.credit -= len(part)
            self.machine.send_data(exchange.ident, bytes(part))
            view = view[len(part) :]

    @property
    def hello(self) -> AgentHello:
        """What the agent said about itself."""
        return self._hello

    @property
    def files(self) -> Files:
        """Files inside."""
        return self._files

    @property
    def is_over(self) -> bool:
        """Whether the session has ended or is about to."""
        return self._over or self._stopping

    def check_open(self) -> None:
        """Raise the reason if the session is over."""
        if self._over or self._stopping:
            raise self.failure or InstanceLostError("the session with the sandbox is closed")

    def counters(self) -> Mapping[str, int]:
        """Return the driver's limit counters; none when it fails."""
        try:
            return dict(self._hooks.limit_counters())
        except Exception:  # noqa: BLE001  # a cgroup may vanish under a dying sandbox; the exit itself is still true
            _log.exception("limit counters can't be read")
            return {}

    def open_exchange(self, exchange: Exchange, fields: Sequence[Field]) -> None:
        """Open a stream. Raises InvalidRequestError when a field is out of bounds."""
        self.check_open()
        try:
            payload = encode(exchange.request, fields)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        self.machine.open(exchange, payload)

    async def call(self, request: Message, fields: Sequence[Field]) -> tuple[EndKind, int, str]:
        """Make a request that is answered by END alone."""
        exchange = CallExchange(request)
        self.open_exchange(exchange, fields)
        return await self.finish(exchange)

    async def finish(self, exchange: Exchange) -> tuple[EndKind, int, str]:
        """Return how a request ended; closes it when the caller is cancelled."""
        try:
            await exchange.done.wait()
        except BaseException:
            exchange.close()
            raise
        if exchange.end is None:
            raise exchange.failure or InstanceLostError("the sandbox died")
        return exchange.end

    async def exec(self, request: ExecRequest) -> GuestProcess:
        """Start a program and return it once it runs, or once it is clear that it can't.

        Raises:
            InvalidRequestError: The request is malformed, or its user is not allowed.
            InstanceLostError: The sandbox died.
        """
        self.check_open()
        try:
            payload = encode(Message.EXEC, exec_fields(request, self.config.launcher))
        except ValueError as error:
            # Also text that has no bytes: UnicodeEncodeError is a ValueError.
            raise InvalidRequestError(str(error)) from error
        process = GuestProcess(self, request, self.counters())
        exchange = process.exchange
        await self._link.wait_for_room()
        self.check_open()
        if len(payload) > MAX_HOST_PAYLOAD:
            process.refuse(126, f"{request.argv[0][:200]}: argument list too long", 0)
            exchange.bind(self.machine, self.machine.take_number())
            exchange.end = (EndKind.NOT_EXECUTABLE, 0, "")
            exchange.finish_unopened()
            process.attach()
            return process
        self.machine.open(exchange, payload)
        process.attach()
        try:
            await exchange.opened.wait()
        except BaseException:
            exchange.close()
            self.kill_soon(exchange)
            raise
        if exchange.end is None and exchange.failure is not None:
            raise exchange.failure
        process.settle()
        if request.timeout is not None and exchange.started:
            self._tasks.start_soon(process.enforce_timeout, request.timeout.total_seconds())
        return process

    def kill_soon(self, exchange: ExecExchange) -> None:
        """Kill a program's tree without waiting, e.g. because the caller was cancelled."""
        if not self._over:
            # Sent now, so that it happens even if the background task never runs.
            call = CallExchange(Message.KILL)
            self.machine.open(call, encode(Message.KILL, (exchange.ident,)))
            self._tasks.start_soon(self._confirm_kill, call)

    async def kill_tree(self, exchange: ExecExchange) -> None:
        """Kill a program's tree and return when it is gone; kills the sandbox if that takes too long."""
        if not self._over:
            call = CallExchange(Message.KILL)
            self.machine.open(call, encode(Message.KILL, (exchange.ident,)))
            await self._confirm_kill(call)
            if not self._over:
                await exchange.exited.wait()

    async def _confirm_kill(self, call: CallExchange) -> None:
        await self._stillness.over()
        with anyio.move_on_after(self.config.limits.kill.total_seconds()):
            await call.done.wait()
        if self._over or (call.end is not None and call.end[0] is EndKind.OK):
            return
        self._finish(InstanceLostError("programs inside could not be ended, so the sandbox was killed"))
        self._guard(self._hooks.kill_instance)  # control: process.kill-tree

    async def connect(self, port: int) -> PortStream:
        """Open a stream to a TCP port on the guest's loopback. Raises GuestConnectionError."""
        if not 1 <= port <= 65535:  # the range of TCP ports
            msg = f"{port} is not a TCP port"
            raise InvalidRequestError(msg, details={"port": port})
        exchange = ConnectExchange()
        self.open_exchange(exchange, (port,))
        try:
            await exchange.opened.wait()
        except BaseException:
            exchange.close()
            raise
        if exchange.connected:
            return PortStream(self, exchange)
        if exchange.end is None:
            raise exchange.failure or InstanceLostError("the sandbox died")
        msg = f"nothing inside accepts connections on port {port}"
        raise GuestConnectionError(msg, details={"port": port, "errno": exchange.end[1]})

    async def usage(self) -> Usage:
        """Return what the agent reports; a driver that can measure from outside should do that."""
        exchange = ReplyExchange(Message.USAGE, Message.USED)
        self.open_exchange(exchange, ())
        await self.finish(exchange)
        if exchange.reply is None:
            raise InstanceLostError("the agent could not report usage")
        cpu, memory, processes, disk = cast("tuple[int, int, int, int]", exchange.reply)
        return Usage(
            at=datetime.now(UTC),
            cpu=timedelta(microseconds=min(cpu, 10**17)),
            memory=memory,
            memory_peak=None,
            processes=processes,
            disk=disk,
        )
