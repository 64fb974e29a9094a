"""Call functions of the host from inside a sandbox.

Only functions that the sandbox's policy grants can be called; each call is counted and recorded.

    import jubako_tools

    total = jubako_tools.call("add", a=1, b=2)
"""

import json
import os
import socket

__all__ = ["ToolError", "call", "request"]

_ADDRESS = "@jubako-tools"
_MAX_ANSWER = 64 * 1024 * 1024


class ToolError(Exception):
    """A call that did not succeed: ``code`` for programs, ``message`` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return "{} [{}]".format(self.message, self.code)


def call(name: str, /, **arguments: object) -> object:
    """Return what the host's function ``name`` returns for these arguments, which go as JSON.

    Raises:
        ToolError: The call was refused, or the function failed.
        TypeError: An argument can't be written as JSON.
        ValueError: The same, for a value such as NaN.
    """
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    answer = json.loads(request(name, text.encode()))
    error = answer.get("error")
    if error is not None:
        raise ToolError(str(error.get("code", "tool-failed")), str(error.get("message", "")))
    return answer.get("result")


def request(name: str, arguments: bytes) -> bytes:
    """Return the answer to one call as JSON text; ``arguments`` is JSON text, too.

    Raises:
        ToolError: There is nobody to ask, or the answer was cut off.
    """
    text = name.encode()
    if not text or b"\0" in text:
        raise ToolError("invalid-request", "a function's name is not empty and has no NUL character")
    address = os.environ.get("JUBAKO_TOOLS") or _ADDRESS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        try:
            stream.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            raise ToolError("tools-unavailable", "this sandbox is granted no functions of the host") from None
        try:
            stream.sendall((len(text) + 1 + len(arguments)).to_bytes(4, "big"))
            stream.sendall(text + b"\0" + arguments)
            size = int.from_bytes(_receive(stream, 4), "big")
            if size > _MAX_ANSWER:
                raise ToolError("tool-connection-lost", "the answer is too large")
            return _receive(stream, size)
        except OSError as error:
            raise ToolError("tool-connection-lost", str(error)) from None


def _receive(stream: socket.socket, size: int) -> bytes:
    parts = [b""]
    while size:
        part = stream.recv(min(size, 262144))
        if not part:
            raise ToolError("tool-connection-lost", "the answer was cut off")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
