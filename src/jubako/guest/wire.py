"""Frames and messages as the host reads and writes them; ``docs/reference/agent-protocol.md`` is the text.

Everything that comes from the guest is hostile until it has passed ``decode`` and the state machine
in ``machine``: a message is exactly its schema, within the bounds of the table, or a violation.
"""

from __future__ import annotations

import struct
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "GUEST_MESSAGES",
    "HEADER",
    "MAX_DATA",
    "MAX_GUEST_PAYLOAD",
    "MAX_HOST_PAYLOAD",
    "MAX_TOOL_ANSWER",
    "MAX_TOOL_NAME",
    "MAX_TOOL_REQUEST",
    "PATH_MAX",
    "PROTOCOL",
    "SCHEMAS",
    "EndKind",
    "Field",
    "Fields",
    "Message",
    "Rule",
    "ViolationError",
    "decode",
    "encode",
    "frame",
]

PROTOCOL: Final = 2
HEADER: Final = struct.Struct("!IBI")
MAX_DATA: Final = 65536
MAX_GUEST_PAYLOAD: Final = 65536
MAX_HOST_PAYLOAD: Final = 4 * 1024 * 1024
PATH_MAX: Final = 4096
TEXT_MAX: Final = 1024
MAX_TOOL_NAME: Final = 256
MAX_TOOL_REQUEST: Final = 1048576
MAX_TOOL_ANSWER: Final = 33554432

Field = int | bytes | str | list[bytes] | list[int] | list[tuple[bytes, bytes]]
Fields = tuple[Field, ...]


class Message(IntEnum):
    """The closed set of frame types."""

    HELLO = 0x01
    CONFIG = 0x02
    READY = 0x03
    SHUTDOWN = 0x04
    BYE = 0x05
    PREPARE = 0x06
    PREPARED = 0x07
    CONTINUE = 0x08
    RENEW = 0x09
    RENEWED = 0x0A
    LAUNCH = 0x0B
    EXEC = 0x10
    STARTED = 0x11
    EXIT = 0x12
    SIGNAL = 0x13
    KILL = 0x14
    RESIZE = 0x15
    DATA = 0x20
    ERRDATA = 0x21
    EOF = 0x22
    CREDIT = 0x23
    DISCARD = 0x24
    CLOSE = 0x25
    END = 0x26
    READ = 0x30
    WRITE = 0x31
    SCAN = 0x32
    STAT = 0x33
    MKDIR = 0x34
    MOVE = 0x35
    REMOVE = 0x36
    CHMOD = 0x37
    INFO = 0x38
    ENTRY = 0x39
    WATCH = 0x40
    CHANGE = 0x41
    CONNECT = 0x48
    CONNECTED = 0x49
    USAGE = 0x50
    USED = 0x51
    TOOLS = 0x58
    CALL = 0x59
    ANSWER = 0x5A


class EndKind(IntEnum):
    """How a stream ended."""

    OK = 0
    ERRNO = 1
    REFUSED = 2
    NOT_FOUND = 3
    NOT_EXECUTABLE = 4
    CANCELLED = 5


class Rule(StrEnum):
    """Names of the rules that a guest can break; each ends the session and kills the sandbox."""

    FRAME_SIZE = "frame.size"
    FRAME_TYPE = "frame.type"
    FRAME_DIRECTION = "frame.direction"
    MESSAGE_MALFORMED = "message.malformed"
    MESSAGE_TRAILING = "message.trailing"
    MESSAGE_RANGE = "message.range"
    SESSION_STATE = "session.state"
    STREAM_UNKNOWN = "stream.unknown"
    STREAM_ENDED = "stream.ended"
    STREAM_STATE = "stream.state"
    CHANNEL_UNKNOWN = "channel.unknown"
    CHANNEL_ENDED = "channel.ended"
    DATA_EMPTY = "data.empty"
    CREDIT_OVERRUN = "credit.overrun"
    CREDIT_GRANT = "credit.grant"
    EXEC_NOT_STARTED = "exec.not-started"
    EXEC_STARTED_TWICE = "exec.started-twice"
    EXEC_EXITED_TWICE = "exec.exited-twice"
    EXEC_NOT_EXITED = "exec.not-exited"
    ENTRY_PATH = "entry.path"
    DATA_LENGTH = "data.length"


class ViolationError(ProtocolError):
    """The guest broke ``rule``; details hold its name."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(f"the guest broke the agent protocol: {rule}", details={"rule": str(rule)})
        self.rule = rule


_INFO: Final = (
    ("kind", "u8", 3),
    ("size", "u64", 0),
    ("mode", "u32", 0o7777),
    ("modified", "i64", 0),
    ("target", "bytes", PATH_MAX),
)
_PATH: Final = ("path", "bytes", PATH_MAX)
_LENGTH: Final = 2**63 - 1

# Field: name, type, bound. The bound of an integer is its largest value (0: the type's own), of
# bytes and str a length, of list, pairs and u64s a count. Nothing nests.
SCHEMAS: Final[Mapping[int, tuple[tuple[str, str, int], ...]]] = MappingProxyType({
    Message.HELLO: (
        ("protocol", "u32", 0),
        ("agent", "str", 64),
        ("python", "str", 64),
        ("pid", "u32", 0),
        ("uid", "u32", 0),
    ),
    Message.CONFIG: (
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
    Message.READY: (
        ("features", "list", 64),
        ("landlock_abi", "u32", 1024),
        ("landlock", "u8", 1),
        ("note", "str", TEXT_MAX),
    ),
    Message.LAUNCH: (),
    Message.SHUTDOWN: (("grace", "u32", 0),),
    Message.BYE: (("reason", "u8", 2), ("text", "str", TEXT_MAX)),
    Message.PREPARE: (),
    Message.PREPARED: (("still", "u8", 1), ("running", "u32", 0), ("text", "str", TEXT_MAX)),
    Message.CONTINUE: (),
    Message.RENEW: (
        ("hostname", "bytes", 64),
        ("machine_id", "bytes", 64),
        ("seed", "bytes", 1024),
        ("env", "pairs", 1024),
        ("window", "u32", 0),
        ("streams", "u32", 0),
        ("drain", "u32", 0),
        ("tools", "u8", 1),
    ),
    Message.RENEWED: (
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
    Message.EXEC: (
        ("argv", "list", 1048576),
        ("cwd", "bytes", PATH_MAX),
        ("env", "pairs", 65536),
        ("user", "bytes", 256),
        ("flags", "u8", 7),
        ("rows", "u32", 4096),
        ("columns", "u32", 4096),
    ),
    Message.STARTED: (("pid", "u32", 0),),
    Message.EXIT: (
        ("kind", "u8", 1),
        ("value", "u32", 255),
        ("pending", "u64", 0),
        ("user", "u64", 0),
        ("system", "u64", 0),
        ("maxrss", "u64", 0),
        ("limits", "u8", 7),
    ),
    Message.SIGNAL: (("target", "u32", 0), ("number", "u32", 64)),
    Message.KILL: (("target", "u32", 0),),
    Message.RESIZE: (("rows", "u32", 4096), ("columns", "u32", 4096)),
    Message.EOF: (("channel", "u8", 1),),
    Message.CREDIT: (("channel", "u8", 1), ("amount", "u32", 0)),
    Message.DISCARD: (("channel", "u8", 1),),
    Message.CLOSE: (),
    Message.END: (("kind", "u8", 5), ("errno", "u32", 4095), ("text", "str", TEXT_MAX)),
    Message.READ: (_PATH, ("offset", "u64", _LENGTH), ("length", "u64", _LENGTH)),
    Message.WRITE: (_PATH, ("mode", "u32", 0o7777)),
    Message.SCAN: (_PATH, ("recursive", "u8", 1)),
    Message.STAT: (_PATH,),
    Message.MKDIR: (_PATH, ("mode", "u32", 0o7777), ("parents", "u8", 1)),
    Message.MOVE: (("source", "bytes", PATH_MAX), ("target", "bytes", PATH_MAX), ("overwrite", "u8", 1)),
    Message.REMOVE: (_PATH, ("recursive", "u8", 1)),
    Message.CHMOD: (_PATH, ("mode", "u32", 0o7777)),
    Message.INFO: _INFO,
    Message.ENTRY: (_PATH, *_INFO),
    Message.WATCH: (_PATH, ("recursive", "u8", 1)),
    Message.CHANGE: (("kind", "u8", 4), _PATH),
    Message.CONNECT: (("port", "u32", 65535),),
    Message.CONNECTED: (),
    Message.USAGE: (),
    Message.USED: (("cpu", "u64", 0), ("memory", "u64", 0), ("processes", "u64", 0), ("disk", "u64", 0)),
    Message.TOOLS: (),
    Message.CALL: (("tool", "bytes", MAX_TOOL_NAME), ("size", "u32", MAX_TOOL_REQUEST)),
    Message.ANSWER: (("size", "u32", MAX_TOOL_ANSWER),),
})  # fmt: skip

GUEST_MESSAGES: Final = frozenset({
    Message.HELLO, Message.READY, Message.BYE, Message.STARTED, Message.EXIT, Message.DATA, Message.ERRDATA,
    Message.EOF, Message.CREDIT, Message.DISCARD, Message.END, Message.INFO, Message.ENTRY, Message.CHANGE,
    Message.CONNECTED, Message.USED, Message.CALL, Message.PREPARED, Message.RENEWED,
})  # fmt: skip
"""What a guest may send at all."""

_INTEGERS: Final = MappingProxyType({
    "u8": struct.Struct("!B"), "u32": struct.Struct("!I"), "u64": struct.Struct("!Q"), "i64": struct.Struct("!q"),
})  # fmt: skip
_LEN: Final = struct.Struct("!I")


def frame(kind: Message, stream: int, payload: bytes = b"") -> bytes:
    """Return one whole frame."""
    return HEADER.pack(len(payload), kind, stream) + payload


def _blob(value: bytes) -> bytes:
    return _LEN.pack(len(value)) + value


def encode(kind: Message, values: Sequence[Field]) -> bytes:
    """Return the payload of a message from its fields in table order.

    Raises:
        ValueError: A field is out of its bound; the caller checks its input before.
    """
    parts: list[bytes] = []
    for (name, type_, bound), value in zip(SCHEMAS[kind], values, strict=True):
        if isinstance(value, int):
            if bound and value > bound:
                msg = f"{kind.name}.{name} is over {bound}"
                raise ValueError(msg)
            try:
                parts.append(_INTEGERS[type_].pack(value))
            except struct.error as error:
                msg = f"{kind.name}.{name} is not a {type_}"
                raise ValueError(msg) from error
            continue
        raw = value.encode() if isinstance(value, str) else value
        if len(raw) > bound:
            msg = f"{kind.name}.{name} is over {bound}"
            raise ValueError(msg)
        if isinstance(raw, bytes):
            parts.append(_blob(raw))
            continue
        parts.append(_LEN.pack(len(raw)))
        for item in raw:
            if isinstance(item, tuple):
                parts += (_blob(item[0]), _blob(item[1]))
            else:
                parts.append(_blob(item) if isinstance(item, bytes) else _INTEGERS["u64"].pack(item))
    return b"".join(parts)


def _take_blob(payload: bytes, at: int) -> tuple[bytes, int]:
    start = at + 4
    if start > len(payload):
        raise ViolationError(Rule.MESSAGE_MALFORMED)
    end = start + _LEN.unpack_from(payload, at)[0]
    if end > len(payload):
        raise ViolationError(Rule.MESSAGE_MALFORMED)
    return payload[start:end], end


def _take_items(payload: bytes, at: int, type_: str, bound: int) -> tuple[Field, int]:
    """Read a list, pairs or u64s. The count is checked first, so that it can't make the host allocate."""
    if at + 4 > len(payload):
        raise ViolationError(Rule.MESSAGE_MALFORMED)
    count = int(_LEN.unpack_from(payload, at)[0])
    at += 4
    if count > bound:
        raise ViolationError(Rule.MESSAGE_RANGE)
    if type_ == "u64s":
        if at + 8 * count > len(payload):
            raise ViolationError(Rule.MESSAGE_MALFORMED)
        return list(struct.unpack_from(f"!{count}Q", payload, at)), at + 8 * count
    blobs: list[bytes] = []
    for _ in range(count * (2 if type_ == "pairs" else 1)):
        blob, at = _take_blob(payload, at)
        blobs.append(blob)
    if type_ == "pairs":
        return list(zip(blobs[::2], blobs[1::2], strict=True)), at
    return blobs, at


def decode(kind: Message, payload: bytes) -> Fields:
    """Return the fields of a message.

    Raises:
        ViolationError: The payload is not exactly one message within the bounds of the table.
    """
    fields: list[Field] = []
    at = 0
    for _, type_, bound in SCHEMAS[kind]:
        packer = _INTEGERS.get(type_)
        if packer is not None:
            end = at + packer.size
            if end > len(payload):
                raise ViolationError(Rule.MESSAGE_MALFORMED)
            number = packer.unpack_from(payload, at)[0]
            if bound and number > bound:
                raise ViolationError(Rule.MESSAGE_RANGE)
            fields.append(number)
            at = end
        elif type_ in {"bytes", "str"}:
            blob, at = _take_blob(payload, at)
            if len(blob) > bound:
                raise ViolationError(Rule.MESSAGE_RANGE)
            try:
                fields.append(blob.decode() if type_ == "str" else blob)
            except UnicodeDecodeError:
                raise ViolationError(Rule.MESSAGE_MALFORMED) from None
        else:
            items, at = _take_items(payload, at, type_, bound)
            fields.append(items)
    if at != len(payload):
        raise ViolationError(Rule.MESSAGE_TRAILING)
    return tuple(fields)
