from __future__ import annotations

import fcntl
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from jubako.errors import LedgerError
from jubako.events import Event, ExecStarted, Recorder
from jubako.sinks import Head, Ledger, LedgerRecovery, ProblemKind, read_key, read_ledger, verify_ledger
from jubako.sinks._chain import HEAD_SIZE, MAX_LINE
from jubako.sinks.ledger import companion


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def fill(path: Path, count: int) -> Head:
    with Ledger(path) as ledger:
        for number in range(count):
            ledger.append({"id": str(number), "seq": number + 1})
        return ledger.head


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def problem(path: Path, **options: Any) -> tuple[ProblemKind, int]:
    found = verify_ledger(path, **options).problem
    assert found is not None
    return found.kind, found.line


def kind_of(error: pytest.ExceptionInfo[LedgerError]) -> object:
    return error.value.details["kind"]


def test_a_line_holds_event_number_chain_and_seal(path: Path) -> None:
    fill(path, 2)
    first, second = (json.loads(line) for line in lines(path))
    assert set(first) == {"event", "hash", "mac", "n", "prev"}
    assert first["event"] == {"id": "0", "seq": 1}
    assert (first["n"], second["n"]) == (1, 2)
    assert first["prev"] == "0" * 64
    assert second["prev"] == first["hash"]
    assert lines(path)[0] == json.dumps(first, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    assert [event["id"] for event in read_ledger(path)] == ["0", "1"]


def test_its_files_are_private_and_the_key_is_random(path: Path, tmp_path: Path) -> None:
    fill(path, 1)
    fill(tmp_path / "other.jsonl", 1)
    for suffix in ("", ".key", ".head"):
        assert stat.S_IMODE(Path(f"{path}{suffix}").stat().st_mode) == 0o600
    key = read_key(companion(path, "key"))
    assert key is not None
    assert len(key) == 32
    assert key != read_key(companion(tmp_path / "other.jsonl", "key"))
    assert companion(path, "head").stat().st_size == HEAD_SIZE
    assert not companion(path, "key.new").exists()


def test_a_good_ledger_verifies_with_and_without_key(path: Path) -> None:
    head = fill(path, 5)
    report = verify_ledger(path, expect_head=head)
    assert (report.ok, report.events, report.head, report.problem, report.pending, report.gaps) == (
        True,
        5,
        head,
        None,
        0,
        0,
    )
    assert report.not_checked == ()
    chain = verify_ledger(path, find_key=False)
    assert chain.ok
    assert "without the key" in chain.not_checked[0]
    assert verify_ledger(path, key=read_key(companion(path, "key")), find_key=False).ok


def test_an_empty_ledger_verifies(path: Path) -> None:
    fill(path, 0)
    report = verify_ledger(path, expect_head=Head(0, "0" * 64))
    assert (report.ok, report.events) == (True, 0)


def test_a_missing_ledger_is_an_error(path: Path) -> None:
    with pytest.raises(LedgerError, match="No such file"):
        verify_ledger(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda at: [*at[:2], at[2].replace(b'"id":"2"', b'"id":"9"'), *at[3:]], (ProblemKind.CHANGED, 3)),
        (lambda at: [*at[:2], at[2].replace(b'"n":3', b'"n":9'), *at[3:]], (ProblemKind.CHANGED, 3)),
        (lambda at: [*at[:2], b"{}\n", *at[3:]], (ProblemKind.CHANGED, 3)),
        (lambda at: [*at[:2], b"x" * (MAX_LINE + 5), b"\n", *at[2:]], (ProblemKind.CHANGED, 3)),
        (lambda at: [*at[:2], *at[3:]], (ProblemKind.DELETED, 3)),
        (lambda at: at[2:], (ProblemKind.DELETED, 1)),
        (lambda at: [at[0], at[2], at[1], *at[3:]], (ProblemKind.REORDERED, 2)),
        (lambda at: [at[-1], *at[:-1]], (ProblemKind.REORDERED, 1)),
        (lambda at: [*at[:3], at[1], *at[3:]], (ProblemKind.INSERTED, 4)),
        (lambda at: at[:-1], (ProblemKind.TRUNCATED, 5)),
        (lambda at: [], (ProblemKind.TRUNCATED, 1)),
        (lambda at: [*at[:-1], at[-1][:-1]], (ProblemKind.TRUNCATED, 5)),
        (lambda at: [*at, b'{"event":'], (ProblemKind.TORN, 6)),
    ],
)
def test_each_kind_of_change_has_its_name_and_line(path: Path, change: Any, expected: tuple[ProblemKind, int]) -> None:
    fill(path, 5)
    path.write_bytes(b"".join(change(lines(path))))
    assert problem(path) == expected
    assert not verify_ledger(path, find_key=False).ok


def test_changes_of_the_head_show(path: Path, tmp_path: Path) -> None:
    fill(path, 5)
    fill(tmp_path / "other.jsonl", 5)
    head = companion(path, "head")
    good = head.read_bytes()
    for bad in (
        good.replace(b'"count":5', b'"count":4'),
        good[:-1],
        b"",
        companion(tmp_path / "other.jsonl", "head").read_bytes(),
    ):
        head.write_bytes(bad)
        assert problem(path) == (ProblemKind.HEAD_CHANGED, 0)
        with pytest.raises(LedgerError) as caught:
            Ledger(path)
        assert kind_of(caught) == "key-mismatch"
    head.unlink()
    assert problem(path) == (ProblemKind.HEAD_CHANGED, 0)


def test_another_key_shows(path: Path, tmp_path: Path) -> None:
    fill(path, 3)
    fill(tmp_path / "other.jsonl", 3)
    assert problem(path, key=read_key(companion(tmp_path / "other.jsonl", "key"))) == (ProblemKind.KEY_MISMATCH, 1)
    companion(tmp_path / "other.jsonl", "key").rename(companion(path, "key"))
    with pytest.raises(LedgerError) as caught:
        Ledger(path)
    assert kind_of(caught) == "key-mismatch"


def test_an_anchor_finds_another_history(path: Path) -> None:
    head = fill(path, 3)
    assert problem(path, expect_head=Head(2, head.hash)) == (ProblemKind.CHANGED, 2)
    assert problem(path, expect_head=Head(7, head.hash)) == (ProblemKind.TRUNCATED, 4)
    assert Head.parse(f" {head}\n") == head
    with pytest.raises(ValueError, match="count:hash"):
        Head.parse("3:abc")


def test_a_ledger_with_lines_never_gets_a_new_key(path: Path) -> None:
    fill(path, 2)
    companion(path, "key").unlink()
    with pytest.raises(LedgerError, match="key is missing") as caught:
        Ledger(path)
    assert kind_of(caught) == "key-mismatch"
    assert "move them aside" in caught.value.hint


def test_a_key_that_others_can_read_is_refused(path: Path) -> None:
    fill(path, 1)
    companion(path, "key").chmod(0o640)
    with pytest.raises(LedgerError, match="open to others"):
        Ledger(path)
    companion(path, "key").chmod(0o600)
    companion(path, "key").write_text("zz")
    with pytest.raises(LedgerError, match="holds no key"):
        Ledger(path)
    companion(path, "key").unlink()
    companion(path, "key").symlink_to("/dev/zero")
    with pytest.raises(LedgerError, match="can't read the key"):
        Ledger(path)


def test_a_cut_tail_is_not_continued(path: Path) -> None:
    fill(path, 4)
    path.write_bytes(b"".join(lines(path)[:-1]))
    with pytest.raises(LedgerError, match="the tail was cut") as caught:
        Ledger(path)
    assert (kind_of(caught), caught.value.details["line"]) == ("truncated", 4)


def test_a_rewritten_last_line_is_not_continued(path: Path) -> None:
    fill(path, 4)
    path.write_bytes(b"".join([*lines(path)[:-1], lines(path)[-1].replace(b'"hash":"', b'"hash":"f')[:-2] + b"}\n"]))
    with pytest.raises(LedgerError, match="last line"):
        Ledger(path)


def test_a_foreign_line_past_the_head_is_not_adopted(path: Path) -> None:
    fill(path, 2)
    with path.open("ab") as file:
        file.write(b'{"event":{}}\n')
    with pytest.raises(LedgerError) as caught:
        Ledger(path)
    assert kind_of(caught) == "inserted"


def test_a_whole_line_past_the_head_is_adopted(path: Path) -> None:
    fill(path, 2)
    before = companion(path, "head").read_bytes()
    fill(path, 1)
    companion(path, "head").write_bytes(before)
    report = verify_ledger(path)
    assert (report.ok, report.pending, report.events) == (True, 1, 3)
    found: list[LedgerRecovery] = []
    with Ledger(path, on_recovery=found.append) as ledger:
        assert ledger.head == report.head
    assert [(item.kind, item.line, item.count) for item in found] == [("adopted", 3, 1)]
    assert verify_ledger(path).pending == 0


def test_half_a_line_is_moved_aside_and_reported(path: Path) -> None:
    fill(path, 2)
    with path.open("ab") as file:
        file.write(b'{"event":{"id":"\xff')
    found: list[LedgerRecovery] = []
    with Ledger(path, on_recovery=found.append):
        pass
    assert [(item.kind, item.line, item.size) for item in found] == [("torn", 3, 17)]
    (note,) = (json.loads(line) for line in lines(companion(path, "torn")))
    assert note["text"].encode("latin-1") == b'{"event":{"id":"\xff'
    assert note["line"] == 3
    assert verify_ledger(path).ok


def test_recoveries_of_other_writers_become_events(path: Path) -> None:
    with Ledger(path) as ledger:
        recorder = Recorder(ledger)
        recorder.record("box", ExecStarted(exec="1", argv=("true",)))
        with path.open("ab") as file:
            file.write(b'{"event"')
        recorder.record("box", ExecStarted(exec="2", argv=("true",)))
    assert [(event["type"], event["sandbox"], event["seq"]) for event in read_ledger(path)] == [
        ("exec.started", "box", 1),
        ("exec.started", "box", 2),
        ("ledger.recovered", None, 1),
    ]


def test_a_ledger_that_vanishes_under_its_writer_is_an_error(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.append({})
        path.rename(path.with_suffix(".moved"))
        with pytest.raises(LedgerError, match="removed or replaced") as caught:
            ledger.append({})
        assert kind_of(caught) == "deleted"
        path.touch()
        with pytest.raises(LedgerError, match="removed or replaced"):
            ledger.append({})


def test_a_ledger_cut_under_its_writer_is_an_error(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.append({})
        os.truncate(path, 0)
        with pytest.raises(LedgerError, match="the tail was cut"):
            ledger.append({})


def test_links_are_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LedgerError, match="can't open"):
        Ledger(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_closed_ledger_takes_nothing(path: Path) -> None:
    ledger = Ledger(path)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.append({})


@pytest.mark.parametrize("event", [{"a": float("nan")}, {"a": object()}, {"a": "x" * MAX_LINE}])
def test_what_can_not_be_written_is_refused_and_leaves_nothing(path: Path, event: dict[str, object]) -> None:
    with Ledger(path) as ledger:
        ledger.append({"id": "0"})
        with pytest.raises(LedgerError) as caught:
            ledger.append(event)
        assert kind_of(caught) == "unwritable"
        ledger.append({"id": "1"})
    report = verify_ledger(path)
    assert (report.ok, report.events) == (True, 2)


def test_a_full_disk_leaves_no_half_line(path: Path) -> None:
    fill(path, 3)
    script = f"""
import resource
from jubako.sinks import Ledger
from jubako.errors import LedgerError
from pathlib import Path
ledger = Ledger(Path({str(path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, ({path.stat().st_size + 100},) * 2)
try:
    ledger.append({{"id": "too much"}})
except LedgerError as error:
    print(error.details["kind"], error.hint)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "unwritable free disk space\n"
    report = verify_ledger(path)
    assert (report.ok, report.events) == (True, 3)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_gaps_in_the_numbering_are_counted(path: Path) -> None:
    with Ledger(path) as ledger:
        for sandbox, recorder, number in (
            ("a", "r", 1),
            ("a", "r", 2),
            ("b", "r", 1),
            ("a", "r", 5),
            (None, "r", 1),
            (None, "s", 1),
        ):
            ledger.append({"sandbox": sandbox, "recorder": recorder, "seq": number})
        assert ledger.last_sequence("a") == 5
        assert ledger.last_sequence("b") == 1
        assert ledger.last_sequence("c") == 0
    report = verify_ledger(path)
    assert (report.ok, report.gaps) == (True, 2)


def test_the_newest_number_is_found_far_back(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.append({"sandbox": "early", "seq": 7})
        for number in range(300):
            ledger.append({"sandbox": "late", "seq": number, "data": "x" * (number * 7)})
        assert ledger.last_sequence("early") == 7
        assert ledger.last_sequence("late") == 299


def test_threads_share_a_ledger(path: Path) -> None:
    with Ledger(path, durable=False) as ledger:

        def write(name: str) -> None:
            for number in range(50):
                ledger.append({"id": f"{name}-{number}"})

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report = verify_ledger(path)
    assert (report.ok, report.events) == (True, 200)


def test_two_open_ledgers_in_one_process_share_a_chain(path: Path) -> None:
    with Ledger(path) as one, Ledger(path, durable=True) as two:
        for number in range(10):
            (one, two)[number % 2].append({"id": str(number)})
    assert [event["id"] for event in read_ledger(path)] == [str(number) for number in range(10)]
    assert verify_ledger(path).ok


WRITER = """
import sys
from pathlib import Path
from jubako.sinks import Ledger
name = sys.argv[2]
with Ledger(Path(sys.argv[1]), sync_every=50) as ledger:
    for number in range(150):
        ledger.append({"id": f"{name}-{number}", "sandbox": name, "seq": number + 1})
"""


def test_writers_in_four_processes_keep_one_chain(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abcd"]
    seen = []
    while any(writer.poll() is None for writer in writers):
        if path.exists() and companion(path, "key").exists():
            report = verify_ledger(path)
            assert report.ok, report
            seen.append(report.events)
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    report = verify_ledger(path)
    assert (report.ok, report.events, report.pending, report.gaps) == (True, 600, 0, 0)
    assert seen == sorted(seen)
    for name in "abcd":
        mine = [event["id"] for event in read_ledger(path) if event["sandbox"] == name]
        assert mine == [f"{name}-{number}" for number in range(150)]


def test_a_fork_writes_to_the_same_chain(path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from jubako.sinks import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.append({"id": "before"})
child = os.fork()
for number in range(50):
    ledger.append({"id": f"{'child' if child == 0 else 'parent'}-{number}"})
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    report = verify_ledger(path)
    assert (report.ok, report.events) == (True, 101)


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from jubako.sinks import Ledger, verify_ledger
path, acknowledged = Path(sys.argv[1]), 0
for turn in range(60):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ledger = Ledger(path)
        while True:
            ledger.append({"id": "x" * random.randrange(9000), "turn": turn})
            os.write(writing, b".")
    os.close(writing)
    time.sleep(random.random() * 0.006)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while data := os.read(reading, 65536):
        acknowledged += len(data)
    os.close(reading)
    Ledger(path).close()
    report = verify_ledger(path)
    if not report.ok or report.pending or report.events < acknowledged:
        sys.exit(f"turn {turn}: {acknowledged} acknowledged, {report}")
print(acknowledged, report.events)
"""


def test_killed_writers_leave_a_ledger_that_the_next_opening_mends(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLER, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    acknowledged, events = (int(word) for word in done.stdout.split())
    assert acknowledged > 100
    assert acknowledged <= events <= acknowledged + 60


def test_recorded_events_come_back_as_the_model_says(path: Path) -> None:
    with Ledger(path) as ledger:
        event = Recorder(ledger).record("box", ExecStarted(exec="1", argv=("echo", "é\udcff"), cwd="/workspace"))
    (stored,) = read_ledger(path)
    back = Event.model_validate_json(json.dumps(stored))
    assert back == Event.model_validate(event.model_dump())
    assert isinstance(back.data, ExecStarted)
    assert back.data.argv == ("echo", "é\\udcff")


def test_reading_stops_with_an_error_where_the_chain_breaks(path: Path) -> None:
    fill(path, 3)
    path.write_bytes(b"".join([*lines(path)[:2], b"{}\n"]))
    reading = read_ledger(path)
    assert [next(reading)["id"], next(reading)["id"]] == ["0", "1"]
    with pytest.raises(LedgerError, match=r"audit\.jsonl:3: not a line"):
        next(reading)


def test_reading_leaves_out_half_a_line(path: Path) -> None:
    fill(path, 2)
    with path.open("ab") as file:
        file.write(b'{"event"')
    assert len(list(read_ledger(path))) == 2


def test_a_busy_lock_is_waited_for_and_then_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jubako.sinks.ledger._LOCK_PATIENCE", 0.05)
    monkeypatch.setattr("jubako.sinks.verify._LOCK_PATIENCE", 0.05)
    with Ledger(path) as ledger:
        ledger.append({})
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(LedgerError, match="another process holds the lock"):
                ledger.append({})
            report = verify_ledger(path)
            assert report.ok
            assert any("busy writer" in note for note in report.not_checked)
        ledger.append({})
    assert verify_ledger(path).events == 2


def test_everything_removed_but_the_key_shows(path: Path) -> None:
    fill(path, 3)
    path.write_bytes(b"")
    companion(path, "head").unlink()
    assert problem(path) == (ProblemKind.HEAD_CHANGED, 0)
    assert verify_ledger(path, find_key=False).ok, "without key and head an empty file says nothing"
    with pytest.raises(LedgerError):
        Ledger(path)


def test_a_head_of_another_key_on_an_empty_ledger_shows(path: Path, tmp_path: Path) -> None:
    fill(path, 0)
    fill(tmp_path / "other.jsonl", 0)
    companion(tmp_path / "other.jsonl", "head").rename(companion(path, "head"))
    assert problem(path) == (ProblemKind.KEY_MISMATCH, 0)


def test_a_crash_between_head_and_key_of_a_new_ledger_is_mended(path: Path) -> None:
    fill(path, 0)
    companion(path, "key").rename(companion(path, "key.new"))
    fill(path, 2)
    assert verify_ledger(path).events == 2


def test_an_old_head_with_all_lines_there_shows_and_is_mended(path: Path) -> None:
    """What a power cut can leave, when the head did not reach the disk but the lines did."""
    fill(path, 1)
    before = companion(path, "head").read_bytes()
    fill(path, 4)
    companion(path, "head").write_bytes(before)
    assert problem(path) == (ProblemKind.HEAD_CHANGED, 0)
    found: list[LedgerRecovery] = []
    with Ledger(path, on_recovery=found.append):
        pass
    assert [(item.kind, item.line, item.count) for item in found] == [("adopted", 2, 4)]
    assert verify_ledger(path).ok
