"""Verdicts, what is kept of a run, and how it is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jubako._lib.levels import Enforcement
from jubako.probes import ProbeResult, ProbeRunReport, Verdict, card_probes, load_results, select_probes, to_document
from jubako.probes.model import Finding
from jubako.probes.outside import Saw
from jubako.probes.results import from_document, store_results
from jubako.probes.runner import conclude
from jubako.probes.scene import judge
from jubako.probes.table import markdown_lines, report_lines

CONTAINED, ESCAPED, INCONCLUSIVE = Verdict.CONTAINED, Verdict.ESCAPED, Verdict.INCONCLUSIVE
(BPF,) = select_probes(["syscall.allowlist/bpf"])
(TREE,) = select_probes(["resource.memory/many-processes"])


def _result(control: str, name: str, verdict: Verdict, **changes: str) -> ProbeResult:
    result = ProbeResult(
        id=f"{control}/{name}",
        control=control,
        title=f"Try {name}",
        verdict=verdict,
        inside="EPERM",
        outside="worked",
        reason="",
        level="enforced",
        seconds=0.1,
    )
    return replace(result, **changes)  # type: ignore[arg-type]  # tests change text fields only


def _report(*results: ProbeResult) -> ProbeRunReport:
    import os

    return ProbeRunReport(
        driver="bwrap",
        boundary="process",
        version="0.8.0",
        kernel=os.uname().release,
        uid=os.geteuid(),
        started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        seconds=1.5,
        complete=True,
        results=results,
    )


@pytest.mark.parametrize(
    ("outside", "inside", "level", "verdict"),
    [
        (ESCAPED, CONTAINED, Enforcement.ENFORCED, CONTAINED),
        (ESCAPED, ESCAPED, Enforcement.ENFORCED, ESCAPED),
        (CONTAINED, ESCAPED, Enforcement.ENFORCED, ESCAPED),
        (INCONCLUSIVE, ESCAPED, Enforcement.PARTIAL, ESCAPED),
        (CONTAINED, CONTAINED, Enforcement.ENFORCED, INCONCLUSIVE),
        (INCONCLUSIVE, CONTAINED, Enforcement.ENFORCED, INCONCLUSIVE),
        (ESCAPED, INCONCLUSIVE, Enforcement.ENFORCED, INCONCLUSIVE),
        (ESCAPED, ESCAPED, Enforcement.UNENFORCED, INCONCLUSIVE),
        (ESCAPED, ESCAPED, None, ESCAPED),
    ],
)
def test_both_runs_make_the_verdict(
    outside: Verdict, inside: Verdict, level: Enforcement | None, verdict: Verdict
) -> None:
    assert conclude(BPF, Finding(outside, "o"), Finding(inside, "i"), level)[0] is verdict


def test_what_the_plan_does_not_promise_is_no_escape() -> None:
    got_through = Finding(ESCAPED, "8 processes hold 24 MiB each")
    verdict, reason = conclude(TREE, got_through, got_through, Enforcement.PARTIAL)
    assert verdict is INCONCLUSIVE
    assert reason.startswith("not promised: resource.memory is partial here")
    assert conclude(TREE, got_through, got_through, Enforcement.ENFORCED)[0] is ESCAPED


def test_the_last_verdict_line_counts_and_is_made_harmless() -> None:
    finding = judge(Saw(stdout=b"noise\nCONTAINED no\nESCAPED \x1b]0;x\x07 by \xff" + b"y" * 4000 + b"\n"))
    assert finding.verdict is ESCAPED
    assert finding.evidence.isprintable()
    assert len(finding.evidence) <= 300


def test_silence_is_inconclusive() -> None:
    finding = judge(Saw(stdout=b"", stderr=b"Traceback\nBoom\x1b", code=1))
    assert finding == Finding(INCONCLUSIVE, "no verdict: it ended with 1  Traceback\\nBoom\\e")


def test_exit_status() -> None:
    good = _result("fs.proc", "a", CONTAINED)
    unproven = _result("fs.proc", "b", INCONCLUSIVE)
    assert _report(good, unproven).exit_status == 0
    assert _report(good, _result("fs.devices", "c", INCONCLUSIVE)).exit_status == 3
    assert _report(good, unproven, _result("fs.proc", "d", ESCAPED)).exit_status == 1
    assert _report().exit_status == 0


def test_a_run_is_kept_and_loaded() -> None:
    report = _report(_result("fs.proc", "a", CONTAINED), _result("fs.proc", "b", INCONCLUSIVE, reason="no such file"))
    path = store_results(report)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_results("bwrap") == report
    assert load_results("bwrap", version="0.8.0") == report
    assert load_results("bwrap", version="0.9.0") is None
    assert load_results("other") is None
    assert [item.name for item in path.parent.iterdir()] == ["bwrap.json"]


@pytest.mark.parametrize("change", [{"kernel": "1.2.3"}, {"uid": 4711}])
def test_a_run_elsewhere_says_nothing(change: dict[str, object]) -> None:
    store_results(replace(_report(_result("fs.proc", "a", CONTAINED)), **change))  # type: ignore[arg-type]  # as above
    assert load_results("bwrap") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 9}', "\x00"])
def test_a_broken_record_is_no_record(text: str) -> None:
    path = store_results(_report())
    path.write_text(text)
    assert load_results("bwrap") is None


def test_documents_go_there_and_back() -> None:
    report = _report(_result("fs.proc", "a", CONTAINED))
    document = json.loads(json.dumps(to_document(report)))
    assert document["counts"] == {"contained": 1, "escaped": 0, "inconclusive": 0}
    assert from_document(document) == report


def test_cards_count_by_control() -> None:
    probes = card_probes(
        _report(
            _result("fs.proc", "a", CONTAINED),
            _result("fs.proc", "b", INCONCLUSIVE),
            _result("net.sockets", "c", ESCAPED),
        )
    )
    assert probes.controls["fs.proc"].verdict == "contained"
    assert probes.controls["net.sockets"].verdict == "escaped"
    assert (probes.total().contained, probes.total().escaped, probes.total().inconclusive) == (1, 1, 1)


def test_the_table_shows_what_matters() -> None:
    report = _report(
        _result("fs.proc", "a", CONTAINED),
        _result("fs.proc", "b", INCONCLUSIVE, reason="no such file"),
        _result("fs.devices", "c", ESCAPED, inside="opened \x1b[31m"),
    )
    text = "\n".join(line for line, _ in report_lines(report, verbose=False, width=80))
    assert "escaped: fs.devices/c" in text
    assert "why: no such file" in text
    assert "fs.proc/a" not in text
    assert "opened \\e[31m" in text
    assert "1 contained, 1 escaped, 1 inconclusive of 3 probes in 1.5 s" in text
    assert "fs.proc/a" in "\n".join(line for line, _ in report_lines(report, verbose=True, width=80))


def test_the_page_names_every_probe_once() -> None:
    page = "\n".join(markdown_lines(_report(_result("fs.proc", "a", CONTAINED), _result("fs.proc", "b|c", CONTAINED))))
    assert "| `fs.proc` | Try a | `fs.proc/a` | contained |" in page
    assert "Try b\\|c" in page


def test_the_page_in_the_docs_is_of_this_catalogue() -> None:
    import subprocess
    import sys

    script = Path(__file__).parents[2] / "scripts" / "gen_boundaries.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
