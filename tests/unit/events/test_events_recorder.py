from __future__ import annotations

import re
import threading
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

import pytest

from jubako.errors import LedgerError
from jubako.events import (
    Assurance,
    Event,
    EventData,
    ExecExited,
    ExecStarted,
    Recorder,
    Redactor,
    SandboxReaped,
    Source,
    event_fields,
)
from jubako.sinks import Ledger, read_ledger, verify_ledger

if TYPE_CHECKING:
    from pathlib import Path

STARTED = ExecStarted(exec="1", argv=("true",))


class Memory:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.broken = False

    def write(self, event: Event) -> None:
        if self.broken:
            msg = "the sink is full"
            raise OSError(msg)
        self.events.append(event)


class BrokenLedger:
    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error

    def write(self, event: Event) -> None:
        if self.error:
            raise self.error

    def last_sequence(self, sandbox: str) -> int:
        return 0

    def notices(self) -> list[EventData]:
        return []


def test_the_envelope_is_complete_and_fits_the_model() -> None:
    before = datetime.now(UTC)
    event = Recorder().record("box", STARTED, source=Source.GUEST, assurance=Assurance.REPORTED, trace_id="t")
    assert Event.model_validate(event.model_dump()) == event
    assert Event.model_validate(event_fields(event)) == event
    assert set(event_fields(event)) == set(Event.model_fields)
    assert (event.type, event.version, event.seq, event.sandbox, event.tenant) == ("exec.started", 1, 1, "box", "local")
    assert (event.source, event.assurance, event.trace_id) == (Source.GUEST, Assurance.REPORTED, "t")
    assert before <= event.time <= before + timedelta(minutes=1)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", event.id)


def test_sequences_are_gapless_per_sandbox_and_ids_grow() -> None:
    recorder = Recorder()
    events = [recorder.record(sandbox, STARTED) for sandbox in ("a", "b", "a", None, "b", "a", None)]
    assert [event.seq for event in events] == [1, 1, 2, 1, 2, 3, 2]
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))
    recorder.forget("a")
    assert recorder.record("a", STARTED).seq == 1


def test_threads_get_gapless_sequences_and_sinks_see_them_in_order() -> None:
    sink = Memory()
    recorder = Recorder(sinks=[sink])

    def work() -> None:
        for _ in range(200):
            recorder.record("box", STARTED)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.seq for event in sink.events] == list(range(1, 801))
    assert [event.id for event in sink.events] == sorted(event.id for event in sink.events)


def test_secrets_are_gone_before_any_sink(tmp_path: Path) -> None:
    sink = Memory()
    with Ledger(tmp_path / "l.jsonl") as ledger:
        recorder = Recorder(ledger, [sink], Redactor(["correct horse"]))
        event = recorder.record("box", ExecStarted(exec="1", argv=("login", "correct horse")))
    assert event.data == ExecStarted(exec="1", argv=("login", "[redacted]"))
    assert sink.events == [event]
    assert b"correct horse" not in (tmp_path / "l.jsonl").read_bytes()


@pytest.mark.parametrize("error", [LedgerError("broken"), OSError("disk"), ValueError("bug")])
def test_a_failing_ledger_stops_the_act_and_takes_no_number(error: Exception) -> None:
    sink, ledger = Memory(), BrokenLedger(error)
    recorder = Recorder(ledger, [sink])
    with pytest.raises(LedgerError):
        recorder.record("box", STARTED)
    assert sink.events == []
    ledger.error = None
    assert recorder.record("box", STARTED).seq == 1


def test_other_sinks_may_fail_and_that_is_counted_and_told() -> None:
    good, bad = Memory(), Memory()
    recorder = Recorder(sinks=[good, bad])
    bad.broken = True
    for _ in range(3):
        recorder.record("box", STARTED)
    assert recorder.lost == {"Memory-0": 0, "Memory-1": 3}
    bad.broken = False
    recorder.record("box", STARTED)
    assert [(event.type, event.sandbox) for event in bad.events] == [("exec.started", "box"), ("events.lost", None)]
    assert event_fields(bad.events[-1])["data"] == {"type": "events.lost", "sink": "Memory", "count": 3}
    assert [event.seq for event in good.events if event.sandbox == "box"] == [1, 2, 3, 4]


def test_numbering_goes_on_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    with Ledger(path) as ledger:
        first = Recorder(ledger)
        for _ in range(3):
            first.record("dead", STARTED)
        first.record("alive", STARTED)
    with Ledger(path) as ledger:
        second = Recorder(ledger)
        assert second.record("dead", SandboxReaped(driver="bwrap", owner=first.id)).seq == 4
        assert second.resume("alive") == 1
        assert second.record("alive", ExecExited(exec="1", code=0, signal=None)).seq == 2
        assert second.record("new", STARTED).seq == 1
    assert verify_ledger(path).gaps == 0
    recorders: dict[object, set[object]] = defaultdict(set)
    for event in read_ledger(path):
        recorders[event["recorder"]].add(event["sandbox"])
    assert recorders == {first.id: {"dead", "alive"}, second.id: {"dead", "alive", "new"}}


def test_every_type_of_event_is_named_component_and_past_tense() -> None:
    (union, _) = get_args(EventData)
    types = [model.model_fields["type"].default for model in get_args(union)]
    assert len(types) == len(set(types))
    for name in types:
        assert re.fullmatch(r"[a-z]+\.(?:[a-z]+_)*(?:[a-z]+ed|lost)", name), name
    assert all(model.__doc__ for model in get_args(union))
