from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from jubako.store import ProbeFindings

if TYPE_CHECKING:
    from pathlib import Path


def write(state: Path, **changes: object) -> Path:
    document: dict[str, object] = {
        "schema_version": 1,
        "driver": "bwrap",
        "version": "0.8.0",
        "kernel": os.uname().release,
        "uid": os.geteuid(),
        "started": "2026-01-02T03:04:05+00:00",
        "complete": True,
        "results": [
            {"control": "fs.ro-root", "verdict": "contained"},
            {"control": "fs.ro-root", "verdict": "inconclusive"},
            {"control": "net.sockets", "verdict": "escaped"},
        ],
    }
    path = state / "probes" / "bwrap.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**document, **changes}))
    return path


def test_findings_are_counted_per_control(tmp_path: Path) -> None:
    write(tmp_path)
    findings = ProbeFindings(tmp_path)
    found = findings.of("bwrap", "0.8.0")
    assert found is not None
    assert found.controls["fs.ro-root"].verdict == "contained"
    assert found.controls["net.sockets"].verdict == "escaped"
    assert (found.total().contained, found.total().escaped, found.total().inconclusive) == (1, 1, 1)
    assert findings.of("bwrap", "0.8.0") is found


def test_a_new_run_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path)
    findings = ProbeFindings(tmp_path)
    assert findings.of("bwrap", "0.8.0") is not None
    write(tmp_path, results=[])
    found = findings.of("bwrap", "0.8.0")
    assert found is not None
    assert found.controls == {}
    path.unlink()
    assert findings.of("bwrap", "0.8.0") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "0.9.0"},
        {"kernel": "1.0"},
        {"uid": 12345},
        {"complete": False},
        {"schema_version": 2},
        {"results": [{"control": "fs.ro-root", "verdict": "perfect"}]},
        {"results": [{}]},
        {"started": "yesterday"},
    ],
)
def test_findings_about_something_else_or_damaged_ones_say_nothing(tmp_path: Path, changes: dict[str, object]) -> None:
    write(tmp_path, **changes)
    assert ProbeFindings(tmp_path).of("bwrap", "0.8.0") is None


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_garbage_says_nothing(tmp_path: Path, text: str) -> None:
    write(tmp_path).write_text(text)
    assert ProbeFindings(tmp_path).of("bwrap", "0.8.0") is None


def test_a_driver_name_is_not_a_path(tmp_path: Path) -> None:
    (tmp_path / "bwrap.json").write_text("{}")
    assert ProbeFindings(tmp_path).of("../bwrap", None) is None
