"""One sandbox's trace session: a socket that the sentry connects to, and a task that reads it.

The sentry's data is hostile: a program that took the sentry over may send anything. Packets are
bounded, what they cost the host is bounded, and whatever breaks the format ends the session. A
session that ends before its sandbox is a control lost: ``on_lost`` is called, and kills the sandbox.
"""  # control: observe.activity

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from jubako.drivers.runsc.trace._acts import Activity
from jubako.drivers.runsc.trace._points import HANDSHAKE, SystemCalls, check_handshake, trace_config
from jubako.drivers.runsc.trace._protobuf import MalformedMessageError
from jubako.drivers.runsc.trace._rate import Budget
from jubako.errors import JubakoError, LaunchError
from jubako.events import TraceFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from jubako.events import EventData
    from jubako.policy import ObservePolicy

__all__ = ["TraceSession"]

_SOCKET: Final = "trace.sock"
_PACKET_LIMIT: Final = 256 * 1024
_CONNECT_SECONDS: Final = 10.0

# What reading may cost: beyond it the reader pauses, the sentry's socket fills, programs inside are
# slowed down, and what still does not fit is dropped and counted by the sentry.
_UNITS_PER_SECOND: Final = 5000
_UNITS_AT_ONCE: Final = 10_000
_UNIT_BYTES: Final = 4096
_BATCH: Final = 64
_LAST_PACKETS: Final = 2000
_DYING_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 1.0


class TraceSession:
    """Listens for one sentry and turns what it tells into events, until closed.

    Make it before runsc starts, show runsc ``path`` and ``config``, then await ``connected``.
    ``on_lost`` is called once if the session ends by itself while the sandbox lives.
    """

    def __init__(
        self,
        directory: Path,
        observe: ObservePolicy,
        *,
        emit: Callable[[EventData], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Make the socket in ``directory``, which must be private. Raises LaunchError."""
        self._directory = directory
        self._emit = emit
        self._on_lost = on_lost
        self._calls = SystemCalls.here()
        self._activity = Activity(observe, emit, anyio.current_time, self._calls)
        self._budget = Budget(_UNITS_PER_SECOND, _UNITS_AT_ONCE, anyio.current_time)
        self._scope = anyio.CancelScope()
        self._ready = anyio.Event()
        self._ended = anyio.Event()
        self._serving = False
        self._problem = ""
        self._peer: socket.socket | None = None
        try:
            self._listener: socket.socket | None = self._listen()
        except OSError as error:
            msg = f"the trace session's socket can't be made: {error}"
            raise LaunchError(msg, details={"control": "observe.activity"}) from error

    @property
    def path(self) -> Path:
        """The socket, until something has connected. Whoever sees it may connect: runsc runs as another user."""
        return self._directory / _SOCKET

    def config(self, endpoint: str) -> bytes:
        """Return the file for runsc's ``--pod-init-config``; ``endpoint`` is where runsc finds ``path``."""
        return json.dumps(trace_config(endpoint, self._calls)).encode()

    def start(self, tasks: TaskGroup) -> None:
        """Wait for the sentry and read it, in the background."""
        self._serving = True
        tasks.start_soon(self._serve)

    async def connected(self, dead: Callable[[], Awaitable[None]]) -> None:
        """Return once the sentry has connected.

        Raises:
            LaunchError: It doesn't, it spoke nonsense, or ``dead`` returned before: it has died.
        """
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await dead()
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up)
            with anyio.move_on_after(_CONNECT_SECONDS):
                await self._ready.wait()
            tasks.cancel_scope.cancel()
        if self._problem or not self._ready.is_set():
            why = self._problem or "nothing connected"
            msg = f"the sandbox's kernel did not open its trace session: {why}"
            raise LaunchError(
                msg,
                hint="this runsc may have no trace sessions; set policy.observe.activity to false to do without",
                details={"control": "observe.activity"},
            )

    async def aclose(self) -> None:
        """Record what is still unread, then close; idempotent. The sandbox should be dead by now."""
        self._scope.cancel()
        if self._serving:
            with anyio.CancelScope(shield=True):
                await self._ended.wait()
        self._close()

    def _listen(self) -> socket.socket:
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            # By the descriptor: the path may be too long for a socket.
            listener.bind(f"/proc/self/fd/{directory}/{_SOCKET}")
            self.path.chmod(0o666)  # its directory is private, and the sandbox's user is another one
            listener.listen(1)
        except OSError:
            self.path.unlink(missing_ok=True)
            listener.close()
            raise
        finally:
            os.close(directory)
        return listener

    async def _serve(self) -> None:
        try:
            with self._scope:
                await self._accept()
                await self._read()
                # Its end may be the sandbox's own: then we are closed soon.
                await anyio.sleep(_DYING_SECONDS)
                self._lost("the sentry closed its trace session")
            self._drain()
        except (JubakoError, MalformedMessageError, OSError) as error:
            self._lost(str(error))
        finally:
            self._ready.set()
            self._ended.set()

    async def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101  # until it is closed, which cancels this
        while True:
            await anyio.wait_readable(self._listener)
            with suppress(BlockingIOError):
                peer, _ = self._listener.accept()
                break
        # One sandbox, one session: nobody else finds the socket from here on.
        self._close_listener()
        self._peer = peer
        peer.settimeout(0)
        check_handshake(await self._receive(peer))
        peer.send(HANDSHAKE)
        self._ready.set()

    async def _receive(self, peer: socket.socket) -> bytes:
        while True:
            with suppress(BlockingIOError):
                return _packet(peer)
            await anyio.wait_readable(peer)

    async def _read(self) -> None:
        """Read packets until the sentry closes its end."""
        peer = self._peer
        assert peer is not None  # noqa: S101  # accepted before
        while True:
            wait = 0.0
            for _ in range(_BATCH):
                try:
                    packet = _packet(peer)
                except BlockingIOError:
                    break
                if not packet:
                    return
                wait = self._budget.spend(1 + len(packet) / _UNIT_BYTES)
                self._activity.take(packet)
            self._activity.report()
            await anyio.sleep(wait)
            with anyio.move_on_after(_IDLE_SECONDS if self._activity.missing else None):
                await anyio.wait_readable(peer)

    def _drain(self) -> None:
        """Take what the sentry had still sent when it died."""
        with suppress(BlockingIOError):
            for _ in range(_LAST_PACKETS):
                packet = _packet(self._peer) if self._peer is not None else b""
                if not packet:
                    break
                self._activity.take(packet)
        self._activity.report(now=True)

    def _lost(self, reason: str) -> None:
        self._problem = reason
        with suppress(JubakoError):  # the ledger may be what is broken; the sandbox is killed all the same
            self._activity.report(now=True)
            self._emit(TraceFailed(reason=reason))
        if not self._scope.cancel_called:
            self._on_lost(reason)

    def _close(self) -> None:
        self._close_listener()
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def _close_listener(self) -> None:
        if self._listener is not None:
            anyio.notify_closing(self._listener)
            self._listener.close()
            self._listener = None
        self.path.unlink(missing_ok=True)


def _packet(peer: socket.socket) -> bytes:
    packet, _, flags, _ = peer.recvmsg(_PACKET_LIMIT)
    if flags & socket.MSG_TRUNC:
        raise MalformedMessageError("a packet is too long")
    return packet
