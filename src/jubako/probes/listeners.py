"""Services of the host that nobody inside may reach: TCP, UDP, unix sockets. They count who called."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import TaskGroup

__all__ = ["Listeners", "local_address"]


def local_address(family: socket.AddressFamily = socket.AF_INET) -> str | None:
    """Return an address of this machine other than loopback, if it has one. Nothing is sent."""
    target = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((target, 9))  # for UDP this only looks up the route
        except OSError:
            return None
        address = str(sock.getsockname()[0])
    return None if address.startswith("127.") or address == "::1" else address


class Listeners:
    """All listeners of one run. ``calls`` counts connections and datagrams since it was last set to 0."""

    def __init__(self, *, abstract: str, path: Path) -> None:
        self._path = path
        self._sockets: list[socket.socket] = []
        self.calls = 0
        self.addresses = [address for address in ("127.0.0.1", local_address()) if address]
        self.tcp_port = self._open_inet(socket.SOCK_STREAM, self.addresses)
        self.udp_port = self._open_inet(socket.SOCK_DGRAM, self.addresses)
        self.tcp6_port = self._open_v6()
        self._keep(self._unix("\0" + abstract))
        self._keep(self._unix(str(path)))
        path.chmod(0o777)

    def _open_inet(self, kind: socket.SocketKind, addresses: list[str]) -> int:
        """Bind one port on each address; an address where it is taken is left out."""
        port = 0
        for address in addresses:
            sock = socket.socket(socket.AF_INET, kind)
            try:
                sock.bind((address, port))
            except OSError:
                sock.close()
                continue
            port = port or sock.getsockname()[1]
            self._keep(sock)
        return port

    def _open_v6(self) -> int | None:
        try:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        except OSError:
            return None
        try:
            sock.bind(("::1", 0))
        except OSError:
            sock.close()
            return None
        port: int = sock.getsockname()[1]
        self._keep(sock)
        return port

    @staticmethod
    def _unix(name: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(name)
        return sock

    def _keep(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._sockets.append(sock)
        if sock.type == socket.SOCK_STREAM:
            sock.listen(16)

    def serve(self, tasks: TaskGroup) -> None:
        """Answer everybody until the tasks are cancelled."""
        for sock in self._sockets:
            tasks.start_soon(self._streams if sock.type == socket.SOCK_STREAM else self._datagrams, sock)

    async def _streams(self, sock: socket.socket) -> None:
        while True:
            await anyio.wait_readable(sock)
            with suppress(OSError):
                peer = sock.accept()[0]
                self.calls += 1
                with peer:
                    peer.settimeout(0)
                    with anyio.move_on_after(1):
                        await anyio.wait_readable(peer)
                        peer.recv(256)
                        peer.send(b"ok")

    async def _datagrams(self, sock: socket.socket) -> None:
        while True:
            await anyio.wait_readable(sock)
            with suppress(OSError):
                data, sender = sock.recvfrom(512)
                self.calls += 1
                sock.sendto(b"ok" + data[:2], sender)

    def close(self) -> None:
        """Close all of them and remove the named one. Pre: nobody serves them any more."""
        for sock in self._sockets:
            sock.close()
        with suppress(FileNotFoundError):
            self._path.unlink()
