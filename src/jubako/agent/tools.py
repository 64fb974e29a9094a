"""Calls of programs inside to functions of the host.

Programs connect to a unix socket and send a request: four bytes of length, then the function's name,
a NUL byte and the arguments as JSON. The answer comes back the same way, without a name. Nothing here
reads JSON: the two ends do. A connection carries one call after another, each on a stream of its own
that the host has opened for it.
"""

from __future__ import annotations

import errno
import posix
import select

from . import core, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional

_MAX_CONNECTIONS = 32
_BACKLOG = 64
_PAUSE = 0.1
_LENGTH = 4
_MAX_FRAME = wire.MAX_TOOL_NAME + 1 + wire.MAX_TOOL_REQUEST
_TOO_LARGE = b'{"error":{"code":"tool-request-too-large","message":"the arguments are over %d bytes of JSON"}}'
_INVALID = b'{"error":{"code":"invalid-request","message":"a request is a name, a NUL byte and JSON"}}'
_ENDED = b'{"error":{"code":"tool-call-ended","message":"the host ended the call"}}'

_WAITING = select.EPOLLIN | select.EPOLLET
"""While an answer is awaited: not every kernel (gVisor's is one) tells of a hang-up unasked."""


class Tools:
    """The socket inside, its connections, and the streams that wait for a call."""

    def __init__(self, agent: core.Agent, address: bytes) -> None:
        import _socket

        self.agent = agent
        self.address = address
        self.connections: Dict[int, Connection] = {}
        """By descriptor, the one that was idle for longest first."""
        self.slots: List[Slot] = []
        self.queue: List[Connection] = []
        kind = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        self._listener = _socket.socket(_socket.AF_UNIX, kind)
        self._listening = False
        self._listener.bind(address)
        self._listener.listen(_BACKLOG)
        self._listen()

    def close(self) -> None:
        """Close the socket and every connection."""
        for connection in list(self.connections.values()):
            connection.close()
        self._pause()
        self.agent.timers.pop(self, None)
        self._listener.close()

    def renew(self) -> None:
        """Forget the streams of another host."""
        self.slots.clear()

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self.agent.watch_fd(self._listener.fileno(), select.EPOLLIN, self._on_connect)

    def _pause(self) -> None:
        """Leave who comes next in the backlog."""
        self._listening = False
        self.agent.forget_fd(self._listener.fileno())

    def _on_connect(self, _events: int) -> None:
        if len(self.connections) >= _MAX_CONNECTIONS and not self._make_room():
            self._pause()
            return
        try:
            fd = int(self._listener._accept()[0])  # type: ignore[attr-defined]  # what the socket module is built on
        except BlockingIOError:
            return
        except OSError:
            # No descriptor is free, or memory is short: not worth to spin for.
            self._pause()
            self.agent.after(self, _PAUSE, self._listen)
            return
        posix.set_blocking(fd, False)
        self.connections[fd] = Connection(self, fd)

    def _make_room(self) -> bool:
        """Close a connection of somebody who does nothing with it, and can connect again."""
        for connection in list(self.connections.values()):
            if connection.is_idle:
                # What it has sent may not have been seen yet.
                connection.read()
                if connection.is_idle:
                    connection.close()
                    return True
        return len(self.connections) < _MAX_CONNECTIONS

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that is closed."""
        self.connections.pop(connection.fd, None)
        if connection in self.queue:
            self.queue.remove(connection)
        self._listen()

    def offer(self, ident: int) -> None:
        """Serve TOOLS: wait for a call."""
        slot = Slot(self.agent, ident, self)
        self.agent.streams[ident] = slot
        self.slots.append(slot)
        self.match()

    def match(self) -> None:
        """Give requests that have come in full to streams that wait for one."""
        while self.queue and self.slots:
            self.slots.pop(0).begin(self.queue.pop(0))


class Connection:
    """One program's connection: a request comes, waits, is answered, then the next one."""

    def __init__(self, tools: Tools, fd: int) -> None:
        self.tools = tools
        self.agent = tools.agent
        self.fd = fd
        self.name = b""
        self.slot: Optional[Slot] = None
        self._in = bytearray()
        self._missing = _LENGTH
        self._skip = 0
        """Bytes of an oversize request that are still to come, to be dropped."""
        self._sized = False
        self._out = bytearray()
        self._more = False
        """More of the answer comes from the host."""
        self._mask = -1
        self._listen(select.EPOLLIN)

    @property
    def is_idle(self) -> bool:
        """Whether no request has begun."""
        return self.fd >= 0 and self._mask == select.EPOLLIN and not self._sized and not self._in and not self._skip

    def _listen(self, mask: int) -> None:
        """Wait for this; a hang-up shows under any mask."""
        if mask != self._mask:
            if self._mask >= 0:
                self.agent.forget_fd(self.fd)
            self.agent.watch_fd(self.fd, mask, self._on_ready)
            self._mask = mask

    def _on_ready(self, events: int) -> None:
        # What is seen may have been handled in the same turn of the loop, so only a hang-up is sure.
        if self._mask == select.EPOLLIN:
            self.read()
        elif self._mask == select.EPOLLOUT:
            self._write()
        elif events & (select.EPOLLHUP | select.EPOLLERR) or self._ended():
            self.close()

    def _ended(self) -> bool:
        """Return whether the program is gone; what it sends while it waits for an answer stays unread."""
        import _socket

        peer = _socket.socket(fileno=self.fd)
        try:
            return not peer.recv(1, _socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            peer.detach()

    # -- the request ------------------------------------------------------------------------

    def read(self) -> None:
        """Read once what is there of a request."""
        try:
            data = posix.read(self.fd, min(self._skip or self._missing, wire.MAX_DATA))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        if self._skip:
            self._skip -= len(data)
            if not self._skip:
                self.answer(_TOO_LARGE % wire.MAX_TOOL_REQUEST)
            return
        self._in += data
        self._missing -= len(data)
        if not self._missing:
            self._complete()

    def _complete(self) -> None:
        if self._sized:
            self._begin()
            return
        size = int.from_bytes(self._in, "big")
        self._in.clear()
        if size > _MAX_FRAME:
            self._skip = size
        elif size:
            self._sized = True
            self._missing = size
        else:
            self.answer(_INVALID)

    def _begin(self) -> None:
        name, separator, arguments = self._in.partition(b"\0")
        if not separator or not 0 < len(name) <= wire.MAX_TOOL_NAME:
            self.answer(_INVALID)
        elif len(arguments) > wire.MAX_TOOL_REQUEST:
            self.answer(_TOO_LARGE % wire.MAX_TOOL_REQUEST)
        else:
            self.name = bytes(name)
            self._in = arguments
            self._listen(_WAITING)
            self.tools.queue.append(self)
            self.tools.match()

    def take(self) -> bytearray:
        """Return the arguments, which are not kept."""
        arguments, self._in = self._in, bytearray()
        return arguments

    # -- the answer -------------------------------------------------------------------------

    def answer(self, data: bytes) -> None:
        """Answer without asking the host."""
        self._in = bytearray()
        self.begin_answer(len(data))
        self.feed(data, last=True)

    def begin_answer(self, size: int) -> None:
        """Announce an answer of that many bytes."""
        self._more = True
        self._out += size.to_bytes(_LENGTH, "big")

    def feed(self, data: bytes, *, last: bool) -> None:
        """Take a part of the answer."""
        self._out += data
        self._more = not last
        self._write()

    def _write(self) -> None:
        try:
            while self._out:
                count = posix.write(self.fd, self._out[: wire.MAX_DATA])
                del self._out[:count]
                if self.slot is not None:
                    self.slot.taken(count)
        except BlockingIOError:
            self._listen(select.EPOLLOUT)
            return
        except OSError:
            self.close()
            return
        if self._more:
            self._listen(_WAITING)
            return
        self._sized = False
        self._missing = _LENGTH
        slot, self.slot = self.slot, None
        # To the end of the line: the next one to go is who was idle for longest.
        self.tools.connections[self.fd] = self.tools.connections.pop(self.fd)
        self._listen(select.EPOLLIN)
        if slot is not None:
            slot.end()

    def cut(self) -> None:
        """End a call that the host gave up: say so, unless the answer has begun."""
        self.slot = None
        if self._more:
            self.close()
        else:
            self.answer(_ENDED)

    def close(self) -> None:
        """Close; the host learns that nobody waits for the answer any more. Idempotent."""
        if self.fd >= 0:
            self.agent.forget_fd(self.fd)
            posix.close(self.fd)
            self.tools.forget(self)
            self.fd = -1
            slot, self.slot = self.slot, None
            if slot is not None:
                slot.end(wire.END_ERRNO, errno.EPIPE)


class Slot(core.Stream):
    """TOOLS: a stream that waits for one call and carries it."""

    def __init__(self, agent: core.Agent, ident: int, tools: Tools) -> None:
        core.Stream.__init__(self, agent, ident)
        self.tools = tools
        self.connection: Optional[Connection] = None
        self._arguments = bytearray()
        self._left = -1
        """Bytes of the answer that are still to come from the host; -1 before ANSWER."""
        self._taken = 0

    @property
    def is_idle(self) -> bool:
        """Whether it still waits for a call."""
        return self.connection is None

    def begin(self, connection: Connection) -> None:
        """Carry the request of this connection."""
        self.connection = connection
        connection.slot = self
        self._arguments = connection.take()
        self.send(wire.CALL, connection.name, len(self._arguments))
        self._pump()

    def _pump(self) -> None:
        while self._arguments and self.window > 0:
            part = self._arguments[: min(self.window, wire.MAX_DATA)]
            del self._arguments[: len(part)]
            self.window -= len(part)
            self.agent.send(wire.DATA, self.ident, part)

    def on_credit(self, _channel: int, amount: int) -> None:
        """Send more of the arguments."""
        self.window += amount
        self._pump()

    def on_answer(self, size: int) -> None:
        """Begin the answer."""
        if self.connection is None or self._left >= 0 or not size:
            raise wire.WireError("no call to answer")
        self._left = size
        self._taken = -_LENGTH  # which the host does not send
        self.connection.begin_answer(size)

    def on_data(self, data: bytes) -> None:
        """Pass a part of the answer on."""
        if len(data) > self._left or self.connection is None:
            raise wire.WireError("more than the answer")
        self._left -= len(data)
        self.connection.feed(data, last=not self._left)

    def taken(self, count: int) -> None:
        """Give credit for what the program's end of the connection took."""
        self._taken += count
        if self._left > 0 and self._taken >= self.agent.window // 4:
            self.send(wire.CREDIT, 0, self._taken)
            self._taken = 0

    def on_close(self) -> None:
        """Give the call up, or wait for none any more."""
        if self in self.tools.slots:
            self.tools.slots.remove(self)
        connection, self.connection = self.connection, None
        self.end(wire.END_CANCELLED)
        if connection is not None and connection.slot is self:
            connection.cut()
