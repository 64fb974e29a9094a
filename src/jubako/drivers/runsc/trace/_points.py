"""What the sentry is asked to tell, and how each kind of message is read.

Field numbers and message types are those of gVisor's remote trace sink, version 1 of its protocol;
the format's rules keep them as they are. Strings are asked for only where they are needed: the sentry
silently drops a whole message if one of its strings is not valid UTF-8. A program may choose such
names to act unseen, so each act that carries strings is also asked for as the bare system call.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jubako.drivers.runsc.trace._protobuf import MalformedMessageError, Message

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "HANDSHAKE",
    "Call",
    "Cloned",
    "Connected",
    "Exited",
    "Frame",
    "Opened",
    "Point",
    "Started",
    "SystemCalls",
    "check_handshake",
    "read_frame",
    "read_point",
    "trace_config",
]

HANDSHAKE: Final = b"\x08\x01"
"""Our answer: a message whose first field, the version, is 1."""

_HEADER: Final = struct.Struct("<HHI")
_CLONE, _EXEC, _EXIT, _RAW, _OPEN, _CONNECT = 2, 3, 4, 6, 7, 10
_AT_FDCWD: Final = -100


@dataclass(frozen=True, slots=True)
class SystemCalls:
    """Numbers of the system calls that are asked for bare, on one kind of machine."""

    execs: tuple[int, ...]
    opens: tuple[int, ...]
    openat2: int = 437

    @classmethod
    def here(cls) -> SystemCalls:
        """Return those of this machine."""
        if platform.machine() in {"aarch64", "arm64"}:
            return cls(execs=(221, 281), opens=(56,))
        return cls(execs=(59, 322), opens=(2, 85, 257))


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet: its kind, how many the sentry has dropped so far (modulo 2**32), and the message."""

    kind: int
    dropped: int
    payload: bytes


@dataclass(slots=True)
class Point:
    """Something that thread ``thread`` of process ``process`` did."""

    thread: int
    process: int


@dataclass(slots=True)
class Started(Point):
    """A program was executed."""

    path: str
    argv: tuple[str, ...]


@dataclass(slots=True)
class Cloned(Point):
    """A thread was made; it leads a process of its own when the two ids are the same."""

    child_thread: int
    child_process: int


@dataclass(slots=True)
class Exited(Point):
    """A process ended with a status as ``wait`` gives it."""

    status: int


@dataclass(slots=True)
class Opened(Point):
    """An open returned. ``base`` is what a relative path starts from; none: unknown."""

    base: str | None
    path: str
    flags: int
    error: int


@dataclass(slots=True)
class Connected(Point):
    """A connect is about to begin."""

    address: bytes


@dataclass(slots=True)
class Call(Point):
    """A bare system call. ``error`` is None at its beginning; 0 or an error's number at its end."""

    number: int
    error: int | None


def trace_config(endpoint: str, calls: SystemCalls) -> Mapping[str, object]:
    """Return the file for runsc's ``--pod-init-config``."""

    def point(name: str, *context: str, optional: tuple[str, ...] = ()) -> dict[str, object]:
        fields = ["thread_id", "group_id", *context]
        return {"name": name, "context_fields": fields, "optional_fields": list(optional)}

    points = [
        point("sentry/clone"),
        point("sentry/execve"),
        point("sentry/exit_notify_parent"),
        point("syscall/openat/exit", "cwd", optional=("fd_path",)),
        point("syscall/connect/enter"),
        point(f"syscall/sysno/{calls.openat2}/exit"),
    ]
    if len(calls.opens) > 1:
        points += [point("syscall/open/exit", "cwd"), point("syscall/creat/exit", "cwd")]
    for number in calls.execs:
        points += [point(f"syscall/sysno/{number}/enter"), point(f"syscall/sysno/{number}/exit")]
    points += [point(f"syscall/sysno/{number}/enter") for number in calls.opens]
    # A burst makes programs wait, up to 42 ms an act, before anything is dropped.
    waits = {"retries": 10, "backoff": "100us", "backoff_max": "10ms"}
    sink = {"name": "remote", "config": {"endpoint": endpoint, **waits}, "ignore_setup_error": False}
    return {"trace_session": {"name": "Default", "points": points, "sinks": [sink]}}


def check_handshake(packet: bytes) -> None:
    """Read the sentry's greeting. Raises MalformedMessageError when it speaks nothing that we do."""
    version = Message(packet).number(1)
    if version < 1:
        msg = f"the trace protocol has the version {version}"
        raise MalformedMessageError(msg)


def read_frame(packet: bytes) -> Frame:
    """Split a packet. Raises MalformedMessageError."""
    if len(packet) < _HEADER.size:
        raise MalformedMessageError("a packet is shorter than its header")
    size, kind, dropped = _HEADER.unpack_from(packet)
    if not _HEADER.size <= size <= len(packet):
        raise MalformedMessageError("a header has an impossible size")
    return Frame(kind, dropped, packet[size:])


def read_point(frame: Frame) -> Point | None:
    """Return what a frame tells, or None for kinds that were not asked for. Raises MalformedMessageError."""
    reader = _READERS.get(frame.kind)
    if reader is None:
        return None
    message = Message(frame.payload)
    context = message.message(1)
    return reader(message, context, context.number(2), context.number(4))


def _started(message: Message, _: Message, thread: int, process: int) -> Point:
    return Started(thread, process, message.text(2), message.texts(3))


def _cloned(message: Message, _: Message, thread: int, process: int) -> Point:
    return Cloned(thread, process, message.number(3), message.number(4))


def _exited(message: Message, _: Message, thread: int, process: int) -> Point:
    return Exited(thread, process, message.number(2))


def _opened(message: Message, context: Message, thread: int, process: int) -> Point:
    # The directory's number came as 32 bits in some versions and as 64 in others.
    number = message.number(4) & 0xFFFF_FFFF
    base = context.text(8) if number == _AT_FDCWD & 0xFFFF_FFFF else message.text(5)
    known = base if base.startswith("/") else None
    return Opened(thread, process, known, message.text(6), message.number(7), message.message(2).number(2))


def _connected(message: Message, _: Message, thread: int, process: int) -> Point:
    return Connected(thread, process, message.raw(6))


def _call(message: Message, _: Message, thread: int, process: int) -> Point:
    error = message.message(2).number(2) if message.has(2) else None
    return Call(thread, process, message.number(4), error)


_READERS: Final = {
    _CLONE: _cloned,
    _EXEC: _started,
    _EXIT: _exited,
    _RAW: _call,
    _OPEN: _opened,
    _CONNECT: _connected,
}
