"""Verification of a ledger: streaming, with bounded memory, with or without its key."""

from __future__ import annotations

import fcntl
import os
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO, Final

from jubako._lib.jsontext import parse_object
from jubako.errors import LedgerError
from jubako.sinks._chain import GENESIS, HEAD_SIZE, MAX_LINE, Head, Line, SealedHead, parse_head, parse_line
from jubako.sinks.ledger import companion, read_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LedgerProblem", "LedgerReport", "ProblemKind", "read_ledger", "verify_ledger"]

_TRACKED: Final = 100_000
_LOCK_PATIENCE: Final = 5.0


class ProblemKind(StrEnum):
    """What is wrong with a ledger."""

    CHANGED = "changed"
    DELETED = "deleted"
    REORDERED = "reordered"
    INSERTED = "inserted"
    TRUNCATED = "truncated"
    TORN = "torn"
    KEY_MISMATCH = "key-mismatch"
    HEAD_CHANGED = "head-changed"


@dataclass(frozen=True, slots=True)
class LedgerProblem:
    """The first thing found wrong: its line (from 1; 0 for the head or the whole file), kind and reading."""

    line: int
    kind: ProblemKind
    text: str


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """The verdict on one ledger.

    Attributes:
        ok: Whether everything that was checked is as it was written.
        events: Lines that hold, counted from the first; all of them when ``ok``.
        head: Where the chain ends; keep it as the anchor of the next verification.
        problem: The first problem, or None.
        pending: 1 when the last line is whole but its head was not written (a crash, or a writer at work).
        gaps: Events missing by their own numbering per sandbox, in an intact chain.
        not_checked: What this verification could not look at, in words.
    """

    path: Path
    ok: bool
    events: int
    head: Head
    problem: LedgerProblem | None = None
    pending: int = 0
    gaps: int = 0
    not_checked: tuple[str, ...] = ()


@dataclass(slots=True)
class _Sequences:
    """Counts jumps in ``seq`` per sandbox, for the sandboxes seen last."""

    gaps: int = 0
    full: bool = False
    _last: OrderedDict[tuple[object, object], int] = field(default_factory=OrderedDict["tuple[object, object]", int])

    def see(self, event: dict[str, object]) -> None:
        sandbox, number = event.get("sandbox"), event.get("seq")
        if not isinstance(number, int):
            return
        place = (sandbox, None if sandbox else event.get("recorder"))
        before = self._last.pop(place, None if self.full else 0)
        if before is not None and number > before + 1:
            self.gaps += number - before - 1
        self._last[place] = number
        if len(self._last) > _TRACKED:
            self._last.popitem(last=False)
            self.full = True


@dataclass(slots=True)
class _Check:
    """One pass over one ledger."""

    path: Path
    key: bytes | None
    record: SealedHead | None
    anchor: Head | None
    head: Head = field(default_factory=lambda: Head(0, GENESIS))
    sequences: _Sequences = field(default_factory=_Sequences)
    anchored: bool = False

    def problem(self, kind: ProblemKind, text: str, line: int | None = None) -> LedgerProblem:
        return LedgerProblem(self.head.count + 1 if line is None else line, kind, text)

    def line(self, raw: bytes) -> LedgerProblem | None:
        """Take one line; the head moves on when it holds."""
        line = parse_line(raw)
        if line is None:
            return self._shapeless(raw)
        if not line.intact():
            return self.problem(ProblemKind.CHANGED, "the content does not fit its hash")
        if line.n < self.head.count + 1:
            return self.problem(ProblemKind.INSERTED, f"a second line numbered {line.n}")
        if line.n > self.head.count + 1:
            return self.problem(ProblemKind.DELETED, f"lines {self.head.count + 1} to {line.n - 1} are missing here")
        if line.prev != self.head.hash:
            return self.problem(
                ProblemKind.CHANGED, "it does not follow from the line before: one of the two was rewritten"
            )
        return self._sealed(line)

    def _sealed(self, line: Line) -> LedgerProblem | None:
        if self.key is not None and not line.sealed(self.key):
            if self.head.count == 0 and (self.record is None or not self.record.sealed(self.key)):
                return self.problem(ProblemKind.KEY_MISMATCH, "this key did not seal this ledger")
            return self.problem(ProblemKind.CHANGED, "it was not sealed with the ledger's key: forged")
        try:
            event = parse_object(line.event)
        except ValueError as error:
            return self.problem(ProblemKind.CHANGED, f"the event is not JSON: {error}")
        self.head = Head(line.n, line.hash)
        self.sequences.see(event)
        if self.anchor is not None and self.anchor.count == line.n:
            self.anchored = True
            if self.anchor.hash != line.hash:
                return self.problem(ProblemKind.CHANGED, "it is not the line that the anchor names", line.n)
        return None

    def _shapeless(self, raw: bytes) -> LedgerProblem:
        if raw.endswith(b"\n"):
            return self.problem(ProblemKind.CHANGED, "not a line of a ledger")
        if len(raw) > MAX_LINE:
            return self.problem(ProblemKind.CHANGED, f"longer than {MAX_LINE} bytes")
        if self.record is not None and self.record.head.count > self.head.count:
            return self.problem(ProblemKind.TRUNCATED, "the line is cut, and the head counts it as whole")
        return self.problem(ProblemKind.TORN, "half a line: a crash in the middle of writing")

    def end(self, size: int) -> LedgerProblem | None:
        """Compare with the head and the anchor, after the last line."""
        return self._against_anchor() or self._against_head(size)

    def _against_anchor(self) -> LedgerProblem | None:
        anchor = self.anchor
        if anchor is None or self.anchored or (anchor.count == 0 and anchor.hash == GENESIS):
            return None
        text = f"the anchor names line {anchor.count}, the ledger ends at {self.head.count}"
        return self.problem(ProblemKind.TRUNCATED, text)

    def _against_head(self, size: int) -> LedgerProblem | None:
        name = companion(self.path, "head").name
        record = self.record
        if record is None:
            if self.head.count == 0 and self.key is None:
                return None
            return self.problem(ProblemKind.HEAD_CHANGED, f"{name} is missing or malformed", 0)
        if self.key is not None and not record.sealed(self.key):
            kind = ProblemKind.HEAD_CHANGED if self.head.count else ProblemKind.KEY_MISMATCH
            return self.problem(kind, f"{name} was not sealed with the ledger's key", 0)
        count, found = record.head.count, self.head.count
        if count > found:
            return self.problem(ProblemKind.TRUNCATED, f"the head counts {count} lines, the ledger has {found}")
        text = ""
        if count == found and record != SealedHead(self.head, size, record.mac):
            text = f"{name} does not fit the last line"
        elif count < found - 1:
            text = f"{name} counts {count} of {found} lines: an older one was put back"
        return self.problem(ProblemKind.HEAD_CHANGED, text, 0) if text else None


def _share(file: BinaryIO) -> bool:
    """Wait for writers to be between two lines; False when one holds the lock for too long."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        else:
            return True


def _lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    left = size
    while left > 0:
        raw = file.readline(min(MAX_LINE + 1, left))
        if not raw:
            return
        left -= len(raw)
        yield raw


def _refine(check: _Check, problem: LedgerProblem, rest: Iterator[bytes]) -> LedgerProblem:
    """A missing line that comes later was moved, not deleted."""
    if problem.kind is ProblemKind.DELETED and problem.line == check.head.count + 1:
        for raw in rest:
            line = parse_line(raw)
            if line is not None and line.n == problem.line:
                return LedgerProblem(
                    problem.line, ProblemKind.REORDERED, f"line {problem.line} comes later in the file"
                )
    return problem


def _unchecked(check: _Check, *, locked: bool) -> tuple[str, ...]:
    notes: list[str] = []
    if check.key is None:
        notes.append("the seals: without the key, lines rewritten together with all after them don't show")
    if check.anchor is None:
        notes.append("an older ledger put back with its older head: pass a head kept elsewhere")
    if check.sequences.full:
        notes.append(f"numbering of sandboxes beyond the last {_TRACKED}")
    if not locked:
        notes.append("the head against a busy writer: the lock was not free")
    return tuple(notes)


def verify_ledger(
    path: Path, key: bytes | None = None, expect_head: Head | None = None, *, find_key: bool = True
) -> LedgerReport:
    """Return whether the ledger is as it was written, and the first problem if not.

    Without ``key`` the ledger's own key file is used when it can be read, unless ``find_key`` is
    false; without any key the chain alone is checked and the report says so. ``expect_head`` is a
    head kept elsewhere. Works beside live writers. Raises LedgerError when there is no such file or
    it can't be read.
    """
    if key is None and find_key:
        key = read_key(companion(path, "key"))
    try:
        with path.open("rb") as file:
            locked = _share(file)
            size = os.fstat(file.fileno()).st_size
            record = _read_head(path)
            if locked:
                fcntl.flock(file, fcntl.LOCK_UN)
            check = _Check(path, key, record, expect_head)
            problem = _run(check, _lines(file, size), size)
    except OSError as error:
        msg = f"can't read ledger {path}: {error.strerror}"
        raise LedgerError(msg, details={"file": str(path), "kind": "unreadable"}) from error
    pending = check.head.count - record.head.count if record is not None and problem is None else 0
    return LedgerReport(
        path=path, ok=problem is None, events=check.head.count, head=check.head, problem=problem,
        pending=max(pending, 0), gaps=check.sequences.gaps, not_checked=_unchecked(check, locked=locked),
    )  # fmt: skip


def _run(check: _Check, lines: Iterator[bytes], size: int) -> LedgerProblem | None:
    for raw in lines:
        problem = check.line(raw)
        if problem is not None:
            return _refine(check, problem, lines)
    return check.end(size)


def _read_head(path: Path) -> SealedHead | None:
    with suppress(FileNotFoundError), companion(path, "head").open("rb") as file:
        return parse_head(file.read(HEAD_SIZE + 1))
    return None


def read_ledger(path: Path) -> Iterator[dict[str, object]]:
    """Yield the events in order, unchecked against key and head. Raises LedgerError at a line that does not hold."""
    with path.open("rb") as file:
        check = _Check(path, None, None, None)
        for raw in _lines(file, os.fstat(file.fileno()).st_size):
            problem = check.line(raw)
            if problem is not None and problem.kind is ProblemKind.TORN:
                return
            line = parse_line(raw)
            if problem is not None or line is None:
                msg = f"ledger {path}:{check.head.count + 1}: {problem.text if problem else 'not a line'}"
                raise LedgerError(msg, details={"file": str(path), "line": check.head.count + 1, "kind": "changed"})
            yield parse_object(line.event)
