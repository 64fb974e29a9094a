"""Tool calls: from the program's import to the agent's socket, where the host is asked.

The worker's process is the one that connects; the program itself has no sockets. What the agent
answers comes from the host and is passed on as text, but for its one outer pair of braces.
"""

from __future__ import annotations

import _socket

TYPE_CHECKING = False

_MAX_ANSWER = 64 * 1024 * 1024
_LENGTH = 4
_UNAVAILABLE = b'{"code":"tools-unavailable","message":"this sandbox is granted no functions of the host"}'
_LOST = b'{"code":"tool-connection-lost","message":"the answer was cut off"}'


def call(endpoint: str, name: bytes, arguments: bytes) -> tuple[bool, bytes]:
    """Return whether the tool answered, and its answer or the error as JSON."""
    if not endpoint:
        return False, _UNAVAILABLE
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        channel.connect("\0" + endpoint[1:] if endpoint.startswith("@") else endpoint)
    except OSError:
        return False, _UNAVAILABLE
    try:
        request = name + b"\0" + arguments
        channel.sendall(len(request).to_bytes(_LENGTH, "big") + request)
        size = int.from_bytes(_receive(channel, _LENGTH), "big")
        return _open(_receive(channel, size)) if 0 < size <= _MAX_ANSWER else (False, _LOST)
    except OSError:
        return False, _LOST
    finally:
        channel.close()


def _receive(channel: _socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = channel.recv(min(size, 262144))
        if not part:
            raise OSError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _open(answer: bytes) -> tuple[bool, bytes]:
    """Split ``{"result": ...}`` or ``{"error": {...}}``, the two shapes that an answer has."""
    text = answer.strip()
    for kind, good in ((b'{"result"', True), (b'{"error"', False)):
        if text.startswith(kind) and text.endswith(b"}"):
            return good, text[len(kind) : -1].lstrip(b" :\n\t\r").rstrip()
    return False, _LOST
