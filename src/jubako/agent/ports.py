"""Relay of one TCP connection to the guest's own loopback."""

from __future__ import annotations

import errno
import select

from . import core, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import List, Optional

_SHUT_WR = 1
_HOSTS = ("127.0.0.1", "::1")


class Relay(core.Stream):
    """CONNECT: bytes both ways under credit, half-close both ways."""

    def __init__(self, agent: core.Agent, ident: int) -> None:
        core.Stream.__init__(self, agent, ident)
        self._socket: Optional[socket] = None
        self._hosts: List[str] = list(_HOSTS)
        self._port = 0
        self._connected = False
        self._buffer = bytearray()
        self._taken = 0
        self._reading = True
        self._write_state = 0
        """0: open, 1: to be shut once the buffer is empty, 2: shut."""
        self._mask = 0

    def open(self, port: int) -> None:
        """Begin to connect; CONNECTED or END follows."""
        self._port = port
        self._try_next(errno.ECONNREFUSED)

    def _try_next(self, number: int) -> None:
        import _socket

        while self._hosts:
            host = self._hosts.pop(0)
            family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
            try:
                self._socket = _socket.socket(
                    family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
                )
                error = self._socket.connect_ex((host, self._port))
            except OSError as failure:
                error = failure.errno or number
            if error in (0, errno.EINPROGRESS):
                self._listen(select.EPOLLOUT)
                return
            number = error if number == errno.ECONNREFUSED and "." in host else number
            self._drop()
        self.end(wire.END_ERRNO, number, "")

    def _listen(self, mask: int) -> None:
        """Register for exactly what can be handled: hang-ups can't be masked."""
        if self._socket is None or mask == self._mask:
            return
        fd = self._socket.fileno()
        if self._mask:
            self.agent.forget_fd(fd)
        if mask:
            self.agent.watch_fd(fd, mask, self._on_ready)
        self._mask = mask

    def _update(self) -> None:
        mask = select.EPOLLIN if self._reading and self.window > 0 else 0
        if self._buffer:
            mask |= select.EPOLLOUT
        self._listen(mask)
        if not self._reading and self._write_state == 2:
            self._drop()
            self.end()

    def _on_ready(self, _events: int) -> None:
        import _socket

        if self._socket is None:
            return
        if not self._connected:
            error = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if error:
                self._drop()
                self._try_next(error)
                return
            self._connected = True
            self.send(wire.CONNECTED)
        else:
            self._serve()
        self._update()

    def _serve(self) -> None:
        if self._buffer:
            self._write()
        if self._reading and self.window > 0:
            self._read()

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(min(self.window, wire.MAX_DATA))
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if data:
            self.window -= len(data)
            self.agent.send(wire.DATA, self.ident, data)
        else:
            self._reading = False
            self.send(wire.EOF, 0)

    def _write(self) -> None:
        if self._socket is None:
            return
        try:
            while self._buffer:
                count = self._socket.send(self._buffer[: wire.MAX_DATA])
                del self._buffer[:count]
                self._taken += count
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(error)
            return
        if self._taken and self._write_state == 0 and (not self._buffer or self._taken >= self.agent.window // 4):
            self.send(wire.CREDIT, 0, self._taken)
            self._taken = 0
        if self._write_state == 1 and not self._buffer:
            self._write_state = 2
            try:
                self._socket.shutdown(_SHUT_WR)
            except OSError:
                # The peer was faster; reading will show it.
                pass

    def on_data(self, data: bytes) -> None:
        """Take bytes for the connection."""
        if self._write_state == 0:
            self._buffer += data
            if self._connected:
                self._write()
                self._update()

    def on_eof(self, _channel: int = 0) -> None:
        """Shut the sending half once everything is sent."""
        if self._write_state == 0:
            self._write_state = 1
            if self._connected:
                self._write()
                self._update()

    def on_credit(self, _channel: int, amount: int) -> None:
        """Read on."""
        self.window += amount
        if self._connected:
            self._update()

    def on_close(self) -> None:
        """Hang up."""
        self._drop()
        self.end(wire.END_CANCELLED)

    def _fail(self, error: OSError) -> None:
        self._drop()
        self.end_with(error)

    def _drop(self) -> None:
        if self._socket is not None:
            self._listen(0)
            self._socket.close()
            self._socket = None
