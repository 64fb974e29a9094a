"""The audit ledger: append-only, hash-chained JSONL, fail-closed.

Four files: the ledger, its ``.key`` (0600, random, made at first use), its ``.head`` (count, hash and
length, sealed; rewritten after each line, so that cutting the tail shows) and, after a crash in the
middle of a write, ``.torn`` with the piece that was moved aside.

Processes share a ledger through ``flock``; each append looks whether the tail has moved. A crash
between a line and its head leaves one line past the head: it is adopted when its MAC is right.
What this can't show: someone who holds the key, or who puts back an older ledger together with its
older head. Keep ``Ledger.head`` elsewhere and pass it to ``verify_ledger`` as the anchor for that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

from jubako._lib.jsontext import canonical
from jubako.errors import LedgerError
from jubako.events import LedgerRecovered, event_fields
from jubako.sinks._chain import (
    GENESIS,
    HEAD_SIZE,
    MAX_LINE,
    Head,
    SealedHead,
    encode_line,
    last_hash,
    parse_head,
    parse_line,
)
from jubako.sinks._tail import last_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

    from jubako.events import Event, EventData

__all__ = ["Ledger", "LedgerRecovery", "companion", "read_key"]

_KEY_BYTES: Final = 32
_LOCK_PATIENCE: Final = 10.0
_MOVE_ASIDE: Final = "keep the ledger and its companions as evidence, move them aside, and a new ledger begins"


@dataclass(frozen=True, slots=True)
class LedgerRecovery:
    """What an earlier crash had left and how it was mended."""

    kind: Literal["adopted", "torn"]
    line: int
    size: int
    text: str
    count: int = 1


def companion(path: Path, suffix: str) -> Path:
    """Return the path of a ledger's ``key``, ``head`` or ``torn`` file."""
    return path.with_name(f"{path.name}.{suffix}")


def read_key(path: Path) -> bytes | None:
    """Return the key in the file ``path``, or None when there is none.

    Raises LedgerError when the file is not private or not a key.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failure(path, "key-mismatch", f"can't read the key: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
            raise _failure(
                path, "key-mismatch", "the key file is open to others", hint="chmod 600, and ask who read it"
            )
        if status.st_uid not in {0, os.geteuid()}:
            raise _failure(path, "key-mismatch", f"the key file belongs to uid {status.st_uid}")
        text = file.read(4 * _KEY_BYTES)
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise _failure(path, "key-mismatch", "the key file holds no key")
    return key


def _failure(path: Path, kind: str, text: str, *, line: int | None = None, hint: str = "") -> LedgerError:
    place = f"{path}:{line}" if line else str(path)
    details: dict[str, object] = {"file": str(path), "kind": kind}
    if line:
        details["line"] = line
    return LedgerError(f"ledger {place}: {text}", hint=hint, details=details)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Ledger:
    """One open ledger. Thread-safe, safe among processes, and refuses to go on where the chain is broken.

    Appending costs well under 0.2 ms: no fsync a line unless ``durable``; otherwise every
    ``sync_every`` lines and at ``sync`` and ``close``. What an earlier crash had left is mended and
    told to ``on_recovery``, after the lock is released; without it, ``notices`` has it for the recorder.
    """

    def __init__(
        self,
        path: Path,
        *,
        durable: bool = False,
        sync_every: int = 1024,
        on_recovery: Callable[[LedgerRecovery], None] | None = None,
    ) -> None:
        self.path = path
        self.on_recovery = on_recovery
        self._durable = durable
        self._sync_every = max(sync_every, 1)
        self._unsynced = 0
        self._lock = threading.RLock()
        self._key = b""
        self._head = Head(0, GENESIS)
        self._size = 0
        self._recoveries: list[LedgerRecovery] = []
        self._notices: list[EventData] = []
        self._file = self._head_file = -1
        self._pid = 0
        self._open()

    @property
    def head(self) -> Head:
        """Where the chain ended when this object last looked. Keep it elsewhere as an anchor."""
        return self._head

    def write(self, event: Event) -> None:
        """Append one event. Raises LedgerError when it can't be recorded; then it is not in the ledger."""
        self.append(event_fields(event))

    def append(self, event: Mapping[str, object]) -> Head:
        """Append one JSON object and return the new head. Raises LedgerError as ``write``."""
        try:
            text = canonical(event)
        except (TypeError, ValueError) as error:
            raise _failure(self.path, "unwritable", f"the event is not JSON: {error}") from error
        with self._lock:
            if self._file < 0 or self._pid != os.getpid():
                self._reopen()
            with self._exclusive():
                line, head = encode_line(self._key, self._head, text)
                if len(line) > MAX_LINE:
                    raise _failure(self.path, "unwritable", f"an event of {len(line)} bytes is too long")
                self._put(line, head)
        self._report()
        return head

    def sync(self) -> None:
        """Return once all lines of this process are on disk."""
        with self._lock:
            if self._file >= 0:
                os.fdatasync(self._file)
                os.fdatasync(self._head_file)
                self._unsynced = 0

    def last_sequence(self, sandbox: str) -> int:
        """Return the ``seq`` of the newest event of ``sandbox``, or 0; looks at the last 64 MiB only."""
        return last_sequence(self.path, sandbox)

    def close(self) -> None:
        """Put everything on disk and close; idempotent."""
        with self._lock:
            if self._file >= 0 and self._pid == os.getpid() and self._unsynced:
                self.sync()
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, line: bytes, head: Head) -> None:
        try:
            _write_all(self._file, line)
            size = self._size + len(line)
            os.pwrite(self._head_file, SealedHead.seal(self._key, head, size).encode(), 0)
            self._unsynced += 1
            if self._durable or self._unsynced >= self._sync_every:
                self.sync()
        except OSError as error:
            # Half a line must not stay; where even that fails, the next opening moves it aside.
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
                os.pwrite(self._head_file, SealedHead.seal(self._key, self._head, self._size).encode(), 0)
            raise _failure(
                self.path, "unwritable", f"can't append: {error.strerror}", hint="free disk space"
            ) from error
        self._head, self._size = head, size

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(self.path, flags | os.O_APPEND, 0o600)
            self._head_file = os.open(companion(self.path, "head"), flags, 0o600)
        except OSError as error:
            self._close()
            raise _failure(self.path, "unwritable", f"can't open: {error.strerror}") from error
        self._pid = os.getpid()
        try:
            with self._lock, self._exclusive(first=True):
                pass
        except BaseException:
            self._close()
            raise
        self._report()

    def _reopen(self) -> None:
        """After a fork the descriptors, and with them the lock, are shared with the parent: take own ones."""
        if self._file < 0:
            raise _failure(self.path, "unwritable", "the ledger is closed")
        self._close()
        self._open()

    def _close(self) -> None:
        for descriptor in (self._file, self._head_file):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._head_file = -1

    @contextmanager
    def _exclusive(self, *, first: bool = False) -> Generator[None]:
        self._flock()
        try:
            status = os.fstat(self._file)
            try:
                named = self.path.stat()
            except FileNotFoundError:
                named = None
            if named is None or (named.st_ino, named.st_dev) != (status.st_ino, status.st_dev):
                raise _failure(
                    self.path, "deleted", "the file was removed or replaced under its writer", hint=_MOVE_ASIDE
                )
            if first:
                self._key = self._first_key(status.st_size)
            if first or status.st_size != self._size:
                self._catch_up(status.st_size)
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _flock(self) -> None:
        deadline, pause = time.monotonic() + _LOCK_PATIENCE, 0.0001
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in {errno.EWOULDBLOCK, errno.EINTR}:
                    raise _failure(self.path, "unwritable", f"can't lock: {error.strerror}") from error
                if time.monotonic() > deadline:
                    raise _failure(self.path, "unwritable", "another process holds the lock") from error
                time.sleep(pause)
                pause = min(pause * 2, 0.01)
            else:
                return

    def _first_key(self, size: int) -> bytes:
        """Return the key; make key and head where the ledger is still empty. The lock is held."""
        place = companion(self.path, "key")
        key = read_key(place)
        if key is not None:
            return key
        record = parse_head(os.pread(self._head_file, HEAD_SIZE + 1, 0))
        if size or (record is not None and record.head.count):
            raise _failure(self.path, "key-mismatch", f"{place.name} is missing", hint=_MOVE_ASIDE)
        key = os.urandom(_KEY_BYTES)
        draft = companion(self.path, "key.new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            _write_all(descriptor, key.hex().encode() + b"\n")
            # The head comes first: a key without a head then always means that the head was removed.
            os.pwrite(self._head_file, SealedHead.seal(key, Head(0, GENESIS), 0).encode(), 0)
            os.fsync(self._head_file)
            os.fsync(descriptor)
            draft.rename(place)
        finally:
            os.close(descriptor)
        return key

    def _catch_up(self, size: int) -> None:
        """Take over the head, then what lies past it: whole sealed lines are adopted, a torn piece moved aside."""
        record = parse_head(os.pread(self._head_file, HEAD_SIZE + 1, 0))
        if record is None or not record.sealed(self._key):
            text = "the head was changed, or is of another key"
            raise _failure(companion(self.path, "head"), "key-mismatch", text, hint=_MOVE_ASIDE)
        if size < record.size or record.head.count < self._head.count:
            text = f"the tail was cut: the head counts {record.head.count} lines in {record.size} bytes, found {size}"
            raise _failure(self.path, "truncated", text, line=record.head.count, hint=_MOVE_ASIDE)
        head, offset = record.head, record.size
        self._check_last(head, offset)
        while offset < size:
            raw = self._line_at(offset, size)
            if not raw.endswith(b"\n") and offset + len(raw) == size:
                self._move_aside(raw, head.count + 1, offset)
                break
            line = parse_line(raw)
            if line is None or not (line.follows(head) and line.intact() and line.sealed(self._key)):
                text = "a line past the head was not written by jubako"
                raise _failure(self.path, "inserted", text, line=head.count + 1, hint=_MOVE_ASIDE)
            head, offset = Head(line.n, line.hash), offset + len(raw)
        if adopted := head.count - record.head.count:
            text = "whole lines past the head were taken over"
            size = offset - record.size
            self._recoveries.append(LedgerRecovery("adopted", record.head.count + 1, size, text, adopted))
            os.pwrite(self._head_file, SealedHead.seal(self._key, head, offset).encode(), 0)
        self._head, self._size = head, offset

    def _line_at(self, offset: int, size: int) -> bytes:
        """Read one line, or what there is of it; most lines are short."""
        raw = b""
        for reach in (4096, MAX_LINE):
            raw = os.pread(self._file, min(reach, size - offset), offset)
            if end := raw.find(b"\n") + 1:
                return raw[:end]
        return raw

    def _check_last(self, head: Head, size: int) -> None:
        """The line that the head names must end where the head says; the whole chain is verify's business."""
        tail = os.pread(self._file, min(size, 1024), max(size - 1024, 0))
        if last_hash(tail) != (head.hash if size else None) or (size == 0) != (head.count == 0):
            raise _failure(self.path, "changed", "the last line is not the head's", line=head.count, hint=_MOVE_ASIDE)

    def _move_aside(self, piece: bytes, line: int, offset: int) -> None:
        note = {"at": time.time(), "line": line, "offset": offset, "text": piece.decode("latin-1")}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(companion(self.path, "torn"), flags, 0o600)
            try:
                _write_all(descriptor, canonical(note) + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.ftruncate(self._file, offset)
        except OSError as error:
            raise _failure(self.path, "torn", f"can't move a torn line aside: {error.strerror}", line=line) from error
        text = "half a line, cut off by a crash, was moved to the .torn file"
        self._recoveries.append(LedgerRecovery("torn", line, len(piece), text))

    def notices(self) -> Sequence[EventData]:
        """Return, once, the recoveries that are to be recorded as events; none where ``on_recovery`` takes them."""
        with self._lock:
            taken, self._notices = self._notices, []
        return taken

    def _report(self) -> None:
        pending, self._recoveries = self._recoveries, []
        for item in pending:
            if self.on_recovery is not None:
                self.on_recovery(item)
            else:
                self._notices.append(LedgerRecovered(kind=item.kind, line=item.line, size=item.size, count=item.count))
