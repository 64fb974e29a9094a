"""Frames and messages as the agent reads and writes them.

``jubako.guest.wire`` holds the same table for the host; a test compares the two.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, List, Sequence, Tuple

    Schema = Tuple[Tuple[str, str, int], ...]

PROTOCOL = 2
AGENT_VERSION = "2.0"
HEADER = 9
MAX_DATA = 65536
MAX_GUEST_PAYLOAD = 65536
MAX_HOST_PAYLOAD = 4 * 1024 * 1024

HELLO, CONFIG, READY, SHUTDOWN, BYE = 0x01, 0x02, 0x03, 0x04, 0x05
PREPARE, PREPARED, CONTINUE, RENEW, RENEWED, LAUNCH = 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B
EXEC, STARTED, EXIT, SIGNAL, KILL, RESIZE = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
DATA, ERRDATA, EOF, CREDIT, DISCARD, CLOSE, END = 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26
READ, WRITE, SCAN, STAT, MKDIR, MOVE, REMOVE, CHMOD = 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37
INFO, ENTRY = 0x38, 0x39
WATCH, CHANGE = 0x40, 0x41
CONNECT, CONNECTED = 0x48, 0x49
USAGE, USED = 0x50, 0x51
TOOLS, CALL, ANSWER = 0x58, 0x59, 0x5A

END_OK, END_ERRNO, END_REFUSED, END_NOT_FOUND, END_NOT_EXECUTABLE, END_CANCELLED = 0, 1, 2, 3, 4, 5
EXITED, SIGNALLED = 0, 1
KIND_FILE, KIND_DIRECTORY, KIND_SYMLINK, KIND_OTHER = 0, 1, 2, 3
CHANGE_CREATED, CHANGE_MODIFIED, CHANGE_REMOVED, CHANGE_MOVED, CHANGE_LOST = 0, 1, 2, 3, 4
FLAG_STDIN, FLAG_TTY, FLAG_PRELOADED = 1, 2, 4
LANDLOCK_OFF, LANDLOCK_TRY, LANDLOCK_REQUIRED = 0, 1, 2
BYE_ASKED, BYE_SIGNAL, BYE_FAILED = 0, 1, 2

PATH_MAX = 4096
TEXT_MAX = 1024
MAX_TOOL_NAME = 256
MAX_TOOL_REQUEST = 1048576
MAX_TOOL_ANSWER = 33554432

_INFO = (
    ("kind", "u8", 3),
    ("size", "u64", 0),
    ("mode", "u32", 0o7777),
    ("modified", "i64", 0),
    ("target", "bytes", PATH_MAX),
)

# Field: name, type, bound. The bound of an integer is its largest value (0: the type's own), of
# bytes and str a length, of list, pairs and u64s a count. Nothing nests.
SCHEMAS: "dict[int, Schema]" = {
    HELLO: (
        ("protocol", "u32", 0),
        ("agent", "str", 64),
        ("python", "str", 64),
        ("pid", "u32", 0),
        ("uid", "u32", 0),
    ),
    CONFIG: (
        ("workspace", "bytes", PATH_MAX),
        ("user", "bytes", 256),
        ("env", "pairs", 1024),
        ("limits", "u64s", 64),
        ("landlock", "u8", 2),
        ("readable", "list", 1024),
        ("writable", "list", 1024),
        ("mounts", "list", 64),
        ("filter", "bytes", 1048576),
        ("window", "u32", 0),
        ("streams", "u32", 0),
        ("drain", "u32", 0),
        ("tools", "bytes", 108),
        ("launcher", "list", 64),
        ("launcher_env", "pairs", 64),
        ("launcher_all", "u8", 1),
        ("launcher_ready", "u32", 0),
        ("renewable", "u8", 1),
    ),
    READY: (
        ("features", "list", 64),
        ("landlock_abi", "u32", 1024),
        ("landlock", "u8", 1),
        ("note", "str", TEXT_MAX),
    ),
    LAUNCH: (),
    SHUTDOWN: (("grace", "u32", 0),),
    BYE: (("reason", "u8", 2), ("text", "str", TEXT_MAX)),
    PREPARE: (),
    PREPARED: (("still", "u8", 1), ("running", "u32", 0), ("text", "str", TEXT_MAX)),
    CONTINUE: (),
    RENEW: (
        ("hostname", "bytes", 64),
        ("machine_id", "bytes", 64),
        ("seed", "bytes", 1024),
        ("env", "pairs", 1024),
        ("window", "u32", 0),
        ("streams", "u32", 0),
        ("drain", "u32", 0),
        ("tools", "u8", 1),
    ),
    RENEWED: (
        ("protocol", "u32", 0),
        ("agent", "str", 64),
        ("python", "str", 64),
        ("pid", "u32", 0),
        ("uid", "u32", 0),
        ("features", "list", 64),
        ("landlock_abi", "u32", 1024),
        ("landlock", "u8", 1),
        ("note", "str", TEXT_MAX),
        ("missing", "list", 16),
    ),
    EXEC: (
        ("argv", "list", 1048576),
        ("cwd", "bytes", PATH_MAX),
        ("env", "pairs", 65536),
        ("user", "bytes", 256),
        ("flags", "u8", 7),
        ("rows", "u32", 4096),
        ("columns", "u32", 4096),
    ),
    STARTED: (("pid", "u32", 0),),
    EXIT: (
        ("kind", "u8", 1),
        ("value", "u32", 255),
        ("pending", "u64", 0),
        ("user", "u64", 0),
        ("system", "u64", 0),
        ("maxrss", "u64", 0),
        ("limits", "u8", 7),
    ),
    SIGNAL: (("target", "u32", 0), ("number", "u32", 64)),
    KILL: (("target", "u32", 0),),
    RESIZE: (("rows", "u32", 4096), ("columns", "u32", 4096)),
    EOF: (("channel", "u8", 1),),
    CREDIT: (("channel", "u8", 1), ("amount", "u32", 0)),
    DISCARD: (("channel", "u8", 1),),
    CLOSE: (),
    END: (("kind", "u8", 5), ("errno", "u32", 4095), ("text", "str", TEXT_MAX)),
    READ: (("path", "bytes", PATH_MAX), ("offset", "u64", 2**63 - 1), ("length", "u64", 2**63 - 1)),
    WRITE: (("path", "bytes", PATH_MAX), ("mode", "u32", 0o7777)),
    SCAN: (("path", "bytes", PATH_MAX), ("recursive", "u8", 1)),
    STAT: (("path", "bytes", PATH_MAX),),
    MKDIR: (("path", "bytes", PATH_MAX), ("mode", "u32", 0o7777), ("parents", "u8", 1)),
    MOVE: (("source", "bytes", PATH_MAX), ("target", "bytes", PATH_MAX), ("overwrite", "u8", 1)),
    REMOVE: (("path", "bytes", PATH_MAX), ("recursive", "u8", 1)),
    CHMOD: (("path", "bytes", PATH_MAX), ("mode", "u32", 0o7777)),
    INFO: _INFO,
    ENTRY: (("path", "bytes", PATH_MAX), *_INFO),
    WATCH: (("path", "bytes", PATH_MAX), ("recursive", "u8", 1)),
    CHANGE: (("kind", "u8", 4), ("path", "bytes", PATH_MAX)),
    CONNECT: (("port", "u32", 65535),),
    CONNECTED: (),
    USAGE: (),
    USED: (
        ("cpu", "u64", 0),
        ("memory", "u64", 0),
        ("processes", "u64", 0),
        ("disk", "u64", 0),
    ),
    TOOLS: (),
    CALL: (("tool", "bytes", MAX_TOOL_NAME), ("size", "u32", MAX_TOOL_REQUEST)),
    ANSWER: (("size", "u32", MAX_TOOL_ANSWER),),
}

_SIZES = {"u8": 1, "u32": 4, "u64": 8, "i64": 8}


class WireError(Exception):
    """The peer sent something that is not in the table."""


def frame(kind: int, stream: int, payload: "bytes | bytearray" = b"") -> bytes:
    """Return one whole frame."""
    return len(payload).to_bytes(4, "big") + bytes((kind,)) + stream.to_bytes(4, "big") + payload


def _blob(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def encode(kind: int, values: "Sequence[Any]") -> bytes:
    """Return the payload of a message from its fields in table order."""
    parts: "List[bytes]" = []
    for (_, type_, bound), value in zip(SCHEMAS[kind], values):
        size = _SIZES.get(type_)
        if size is not None:
            parts.append(value.to_bytes(size, "big", signed=type_ == "i64"))
        elif type_ == "bytes":
            parts.append(_blob(value))
        elif type_ == "str":
            parts.append(_blob(value.encode("utf-8", "replace")[:bound].decode("utf-8", "ignore").encode()))
        else:
            parts.append(len(value).to_bytes(4, "big"))
            parts.extend(_items(type_, value))
    return b"".join(parts)


def _items(type_: str, value: "Iterable[Any]") -> "Iterable[bytes]":
    for item in value:
        if type_ == "list":
            yield _blob(item)
        elif type_ == "pairs":
            yield _blob(item[0]) + _blob(item[1])
        else:
            yield item.to_bytes(8, "big")


class _Reader:
    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.at = 0

    def take(self, count: int) -> bytes:
        part = self.payload[self.at : self.at + count]
        if len(part) != count:
            raise WireError("short message")
        self.at += count
        return part

    def blob(self) -> bytes:
        return self.take(int.from_bytes(self.take(4), "big"))

    def field(self, type_: str, bound: int) -> "Any":
        size = _SIZES.get(type_)
        if size is not None:
            number = int.from_bytes(self.take(size), "big", signed=type_ == "i64")
            if bound and number > bound:
                raise WireError("number out of range")
            return number
        if type_ in ("bytes", "str"):
            blob = self.blob()
            if len(blob) > bound:
                raise WireError("field too long")
            return blob if type_ == "bytes" else blob.decode()
        count = int.from_bytes(self.take(4), "big")
        if count > bound:
            raise WireError("too many items")
        if type_ == "list":
            return [self.blob() for _ in range(count)]
        if type_ == "pairs":
            return [(self.blob(), self.blob()) for _ in range(count)]
        return [int.from_bytes(self.take(8), "big") for _ in range(count)]


def decode(kind: int, payload: bytes) -> "List[Any]":
    """Return the fields of a message. Raises WireError unless the payload is exactly one message."""
    schema = SCHEMAS.get(kind)
    if schema is None:
        raise WireError("unknown message")
    reader = _Reader(payload)
    fields = [reader.field(type_, bound) for _, type_, bound in schema]
    if reader.at != len(payload):
        raise WireError("trailing bytes")
    return fields
