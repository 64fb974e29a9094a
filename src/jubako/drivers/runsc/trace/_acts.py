"""From the sentry's messages to events: what is worth recording, how much of it, and what was missed."""

from __future__ import annotations

import ipaddress
import os.path
import re
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from jubako.drivers.runsc.trace._points import (
    Call,
    Cloned,
    Connected,
    Exited,
    Opened,
    Started,
    SystemCalls,
    read_frame,
    read_point,
)
from jubako.drivers.runsc.trace._rate import Budget
from jubako.events import (
    ConnectionTried,
    FileOpened,
    ProgramCloned,
    ProgramExited,
    ProgramStarted,
    TraceDropped,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from jubako.events import EventData
    from jubako.policy import ObservePolicy

__all__ = ["EVENTS_AT_ONCE", "EVENTS_PER_SECOND", "Activity", "connection", "is_sensitive"]

EVENTS_PER_SECOND: Final = 500
EVENTS_AT_ONCE: Final = 1000
_REPORT_SECONDS: Final = 1.0
_REMEMBERED: Final = 65536
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PROCESS: Final = re.compile(r"/proc/(?:[0-9]+|thread-self)(?=/)(?:/task/[0-9]+(?=/))?")
_FAMILIES: Final = {1: "unix", 2: "inet", 10: "inet6"}

_Reason: TypeAlias = Literal["queue", "rate", "unreadable", "unknown"]


class Activity:
    """Reads the packets of one trace session. ``emit`` takes the events and may raise what stops the session."""

    def __init__(
        self,
        observe: ObservePolicy,
        emit: Callable[[EventData], None],
        clock: Callable[[], float],
        calls: SystemCalls | None = None,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._calls = calls or SystemCalls.here()
        self._sensitive = tuple(path.rstrip("/") + "/" for path in observe.sensitive)
        self._budget = Budget(EVENTS_PER_SECOND, EVENTS_AT_ONCE, clock)
        self._dropped = 0
        self._missed: Counter[_Reason] = Counter()
        self._reported = float("-inf")
        # Processes whose exec was told in full, and threads whose open has begun.
        self._told: set[int] = set()
        self._opening: set[int] = set()

    @property
    def missing(self) -> bool:
        """Whether acts went unrecorded that ``report`` has not told yet."""
        return bool(self._missed)

    def take(self, packet: bytes) -> None:
        """Read one packet and record what it tells. Raises MalformedMessageError, and what ``emit`` raises."""
        frame = read_frame(packet)
        # Threads send at once, so the counter may come a little out of order; it wraps at 32 bits.
        more = (frame.dropped - self._dropped) & 0xFFFF_FFFF
        if 0 < more < 2**31:
            self._dropped = frame.dropped
            self._missed["queue"] += more
        match read_point(frame):
            case Opened() as point:
                self._opening.discard(point.thread)
                self._open(point)
            case Call() as point:
                self._call(point)
            case Started() as point:
                self._remember(self._told, point.process)
                self._record(ProgramStarted(pid=point.process, path=point.path, argv=point.argv))
            case Cloned() as point:
                if point.child_thread == point.child_process:
                    self._record(ProgramCloned(pid=point.process, child=point.child_process))
            case Exited() as point:
                self._exit(point)
            case Connected() as point:
                self._record(connection(point.process, point.address))
            case _:
                self._missed["unknown"] += 1

    def report(self, *, now: bool = False) -> None:
        """Record what was missed, at most once a second unless ``now``."""
        if not self._missed or (not now and self._clock() - self._reported < _REPORT_SECONDS):
            return
        missed, self._missed = self._missed, Counter()
        self._reported = self._clock()
        for reason, count in sorted(missed.items()):
            self._emit(TraceDropped(count=count, reason=reason))

    def _call(self, point: Call) -> None:
        """Notice acts whose full message the sentry could not write: names that are no text, or too long."""
        if point.number in self._calls.execs:
            if point.error is None:
                self._told.discard(point.process)
            elif point.error == 0 and point.process not in self._told:
                self._record(ProgramStarted(pid=point.process, path="", argv=()))
        elif point.number in self._calls.opens:
            if point.thread in self._opening:
                self._missed["unreadable"] += 1
            self._remember(self._opening, point.thread)
        elif point.number == self._calls.openat2:
            # gVisor does not tell its path; versions that refuse the call need not.
            self._missed["unreadable"] += point.error == 0
        else:
            self._missed["unknown"] += 1

    def _exit(self, point: Exited) -> None:
        self._told.discard(point.process)
        if point.thread in self._opening:
            self._opening.discard(point.thread)
            self._missed["unreadable"] += 1
        signal = point.status & 0x7F
        code = (point.status >> 8) & 0xFF
        self._record(
            ProgramExited(pid=point.process, code=None if signal else code, signal=signal or None),
        )

    def _open(self, point: Opened) -> None:
        if not point.path.startswith("/") and point.base is None:
            self._missed["unreadable"] += 1
            return
        # Text of the guest's, never a path here.
        joined = point.path if point.path.startswith("/") else f"{point.base}/{point.path}"
        path = "/" + os.path.normpath(joined).lstrip("/")
        if is_sensitive(path, self._sensitive):
            self._record(
                FileOpened(pid=point.process, path=path, write=bool(point.flags & _WRITING), error=point.error or None)
            )

    def _record(self, data: EventData) -> None:
        # A fork bomb must not flood the ledger.
        if self._budget.take():
            self._emit(data)
        else:
            self._missed["rate"] += 1

    def _remember(self, known: set[int], number: int) -> None:
        if len(known) >= _REMEMBERED:
            self._missed["unreadable"] += len(known)
            known.clear()
        known.add(number)


def is_sensitive(path: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether an absolute path is one of ``prefixes``, which end in slashes, or below one."""
    whole = path if path == "/" else path + "/"
    # A program's own directory in /proc has as many names as it has ids.
    return whole.startswith(prefixes) or _PROCESS.sub("/proc/self", whole, count=1).startswith(prefixes)


def connection(process: int, address: bytes) -> ConnectionTried:
    """Return the event for a socket address as the program gave it, of whatever length."""
    number = int.from_bytes(address[:2], "little")
    family = _FAMILIES.get(number, str(number))
    where, port = "", None
    if family == "unix":
        name = address[2:]
        name = b"@" + name[1:] if name[:1] == b"\0" else name.split(b"\0")[0]
        where = name[:108].decode("utf-8", "backslashreplace")
    elif family == "inet" and len(address) >= 8:
        where, port = str(ipaddress.IPv4Address(address[4:8])), int.from_bytes(address[2:4], "big")
    elif family == "inet6" and len(address) >= 24:
        where, port = str(ipaddress.IPv6Address(address[8:24])), int.from_bytes(address[2:4], "big")
    else:
        where = address[2:66].hex()
    return ConnectionTried(pid=process, family=family, address=where, port=port)
