"""Whatever is done to a ledger without its key shows, and opening it again launders nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jubako.errors import LedgerError
from jubako.sinks import Head, Ledger, ProblemKind, verify_ledger
from jubako.sinks._chain import GENESIS, encode_line, parse_line
from jubako.sinks.ledger import companion

LINES = 9


@dataclass
class Files:
    """The bytes of one ledger; edits work on copies."""

    ledger: bytes
    head: bytes | None
    key: bytes
    heads: list[bytes] = field(default_factory=list)

    @property
    def lines(self) -> list[bytes]:
        return self.ledger.splitlines(keepends=True)

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        place = Path(tempfile.mkdtemp(prefix="jubako-ledger-"))
        path = place / "audit.jsonl"
        path.write_bytes(self.ledger)
        if self.head is not None:
            companion(path, "head").write_bytes(self.head)
        companion(path, "key").write_bytes(self.key)
        companion(path, "key").chmod(0o600)
        try:
            yield path
        finally:
            shutil.rmtree(place)


def make(name: str, lines: int = LINES) -> Files:
    with Files(b"", None, b"").on_disk() as path:
        companion(path, "key").unlink()
        heads: list[bytes] = []
        with Ledger(path) as ledger:
            for number in range(lines):
                heads.append(companion(path, "head").read_bytes())
                ledger.append(
                    {"id": f"{name}-{number}", "data": {"argv": ["x" * number, '","hash":"']}, "seq": number + 1}
                )
        return Files(
            path.read_bytes(), companion(path, "head").read_bytes(), companion(path, "key").read_bytes(), heads
        )


OURS = make("ours")
THEIRS = make("theirs")

Edit = Callable[[Files], Files]


def on_lines(change: Callable[[list[bytes]], list[bytes]]) -> Edit:
    return lambda files: Files(b"".join(change(files.lines)), files.head, files.key)


def on_ledger(change: Callable[[bytes], bytes]) -> Edit:
    return lambda files: Files(change(files.ledger), files.head, files.key)


def on_head(change: Callable[[bytes], bytes | None]) -> Edit:
    return lambda files: Files(files.ledger, change(files.head or b""), files.key)


def put_byte(data: bytes, at: int, value: int) -> bytes:
    at %= max(len(data), 1)
    return data[:at] + bytes([value]) + data[at + 1 :]


def splice(data: bytes, at: int, length: int, new: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + new + data[at + length :]


def swap(lines: list[bytes], one: int, two: int) -> list[bytes]:
    lines = list(lines)
    if lines:
        one, two = one % len(lines), two % len(lines)
        lines[one], lines[two] = lines[two], lines[one]
    return lines


def forge(lines: list[bytes], at: int) -> list[bytes]:
    """Rewrite one event and chain everything after it anew, as an attacker without the key would."""
    head = Head(0, GENESIS)
    made: list[bytes] = []
    for number, raw in enumerate(lines):
        line = parse_line(raw)
        if line is None:
            return lines
        if number < at % max(len(lines), 1):
            made.append(raw)
            head = Head(line.n, line.hash)
            continue
        event = b'{"id":"forged"}' if number == at % len(lines) else line.event
        forged, head = encode_line(b"a guess at the key", head, event)
        made.append(forged)
    return made


AT = st.integers(0, 10_000)
INDEX = st.integers(0, LINES)
BYTES = st.binary(max_size=40) | st.sampled_from([b"\n", b"{}\n", b"}", *THEIRS.lines, *OURS.lines])
EDITS: st.SearchStrategy[Edit] = st.one_of(
    st.builds(lambda at, value: on_ledger(lambda data: put_byte(data, at, value)), AT, st.integers(0, 255)),
    st.builds(
        lambda at, length, new: on_ledger(lambda data: splice(data, at, length, new)), AT, st.integers(0, 900), BYTES
    ),
    st.builds(lambda at: on_ledger(lambda data: data[: at % (len(data) + 1)]), AT),
    st.builds(lambda at, to: on_lines(lambda lines: lines[:at] + lines[to:]), INDEX, INDEX),
    st.builds(lambda one, two: on_lines(lambda lines: swap(lines, one, two)), INDEX, INDEX),
    st.builds(lambda at, new: on_lines(lambda lines: [*lines[:at], new, *lines[at:]]), INDEX, BYTES),
    st.builds(lambda at: on_lines(lambda lines: forge(lines, at)), INDEX),
    st.just(on_lines(lambda lines: lines[::-1])),
    st.builds(lambda at, value: on_head(lambda data: put_byte(data, at, value)), AT, st.integers(0, 255)),
    st.builds(lambda at: on_head(lambda data: data[: at % (len(data) + 1)]), AT),
    st.sampled_from([on_head(lambda _: None), on_head(lambda _: THEIRS.head), on_head(lambda data: data + b" ")]),
    st.builds(lambda at: on_head(lambda _: OURS.heads[at]), st.integers(0, LINES - 2)),
)


@settings(max_examples=500)
@given(st.lists(EDITS, min_size=1, max_size=3))
def test_every_edit_is_found_and_nothing_is_laundered(edits: list[Edit]) -> None:
    files = OURS
    for edit in edits:
        files = edit(files)
    assume((files.ledger, files.head) != (OURS.ledger, OURS.head))
    # A ledger cut back to an older state together with that state's own head is the one thing that
    # needs an anchor kept elsewhere; see the test below.
    if rolled_back(files):
        return
    with files.on_disk() as path:
        report = verify_ledger(path)
        assert not report.ok
        assert report.problem is not None
        with suppress(LedgerError), Ledger(path) as ledger:
            ledger.append({"id": "later"})
        # Opening mends what a crash may have left: half a line behind everything, or a head that did not
        # reach the disk. No whole line is lost then, and what is moved aside is kept.
        if verify_ledger(path).ok:
            assert path.read_bytes().startswith(OURS.ledger)
            assert report.problem.kind in {ProblemKind.TORN, ProblemKind.HEAD_CHANGED}
            assert companion(path, "torn").exists() == (report.problem.kind is ProblemKind.TORN)


def rolled_back(files: Files) -> bool:
    """Whether this is an older state, with that state's head: also as a crash right after it would leave it."""
    if files.head not in OURS.heads:
        return False
    older = OURS.heads.index(files.head)
    whole = files.ledger[: files.ledger.rfind(b"\n") + 1]
    kept = len(whole.splitlines())
    lost_nothing = kept == LINES and older < LINES - 1
    return older <= kept and whole == b"".join(OURS.lines[:kept]) and not lost_nothing


@given(st.integers(0, LINES - 1))
def test_an_older_ledger_with_its_older_head_needs_an_anchor(count: int) -> None:
    files = Files(b"".join(OURS.lines[:count]), OURS.heads[count], OURS.key)
    last = parse_line(OURS.lines[-1])
    assert last is not None
    with files.on_disk() as path:
        assert verify_ledger(path).ok
        assert "older ledger" in verify_ledger(path).not_checked[0]
        report = verify_ledger(path, expect_head=Head(last.n, last.hash))
        assert report.problem is not None
        assert report.problem.kind is ProblemKind.TRUNCATED


@pytest.mark.parametrize("cut", range(1, len(OURS.lines[-1])))
def test_every_crash_inside_the_last_write_is_mended(cut: int) -> None:
    whole = b"".join(OURS.lines[:-1])
    files = Files(whole + OURS.lines[-1][:cut], OURS.heads[-1], OURS.key)
    with files.on_disk() as path:
        problem = verify_ledger(path).problem
        assert problem is not None
        assert (problem.kind, problem.line) == (ProblemKind.TORN, LINES)
        found: list[str] = []
        with Ledger(path, on_recovery=lambda item: found.append(item.kind)) as ledger:
            assert ledger.head.count == LINES - 1
            ledger.append({"id": "after"})
        assert found == ["torn"]
        assert path.read_bytes().startswith(whole)
        assert verify_ledger(path).ok


def test_the_chain_alone_finds_every_changed_byte_but_those_of_seals() -> None:
    seals = [(offset, offset + 64) for offset in _seal_offsets()]
    for at in range(len(OURS.ledger)):
        if any(start <= at < end for start, end in seals):
            continue
        files = Files(put_byte(OURS.ledger, at, OURS.ledger[at] ^ 1), OURS.head, OURS.key)
        with files.on_disk() as path:
            assert not verify_ledger(path, find_key=False).ok, at


def _seal_offsets() -> Iterator[int]:
    start = 0
    for raw in OURS.lines:
        yield start + raw.rindex(b'"mac":"') + 7
        start += len(raw)
