"""``jubako probe``, as people and programs call it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.cli import main
from jubako.probes import PROBES, Verdict, load_results, run_probes

if TYPE_CHECKING:
    from pathlib import Path

QUICK = ("fs.mounts", "process.ipc/shared-memory")


def test_listing_runs_nothing(capsys: pytest.CaptureFixture[str], state_home: Path) -> None:
    assert main(["probe", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PROBES)
    assert lines[0].split()[0] == PROBES[0].id
    assert not (state_home / "ledger.jsonl").exists()


def test_listing_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--list", "--json", "--only", "net.sockets/vsock"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "probes": [
            {"id": "net.sockets/vsock", "control": "net.sockets", "title": "Make a socket to the hypervisor"},
        ]
    }


def test_a_pattern_that_fits_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--only", "nonsense", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "invalid-request"


def test_an_unknown_boundary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--boundary", "moat"]) == 2
    assert "moat" in capsys.readouterr().err


@pytest.mark.driver("bwrap")
def test_a_table_and_an_event(capsys: pytest.CaptureFixture[str], state_home: Path) -> None:
    assert main(["probe", "--boundary", "process", *(f"--only={item}" for item in QUICK)]) == 0
    out, err = capsys.readouterr()
    assert "fs.mounts" in out
    assert "5 contained, 0 escaped, 0 inconclusive of 5 probes" in out
    assert err == ""
    events = [json.loads(line) for line in (state_home / "ledger.jsonl").read_text().splitlines()]
    found = [data for data in (_data(event) for event in events) if data.get("type") == "probe.completed"]
    assert found == [
        {"type": "probe.completed", "driver": "bwrap", "contained": 5, "escaped": 0, "inconclusive": 0},
    ]
    assert load_results("bwrap") is None, "a partial run is not kept"


def _data(event: dict[str, object]) -> dict[str, object]:
    """Return the event's data, wherever in the ledger's line it is."""
    for value in [event, *event.values()]:
        if isinstance(value, dict):
            data = value.get("data")
            if isinstance(data, dict):
                return data
    return {}


@pytest.mark.driver("bwrap")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--json", "--boundary", "process", "--only", "fs.mounts/outward-link"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"contained": 1, "escaped": 0, "inconclusive": 0}
    assert document["driver"] == "bwrap"
    assert document["results"][0]["outside"].endswith("read the mark")
    assert document["complete"] is False


@pytest.mark.driver("bwrap")
def test_every_probe_with_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "-v", "--only", "fs.mounts/outward-link"]) == 0
    out = capsys.readouterr().out
    assert "contained: fs.mounts/outward-link" in out
    assert "inside: /mnt/granted/outward:ENOENT" in out


@pytest.mark.driver("bwrap")
def test_a_bar_on_a_terminal_and_only_there() -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "from jubako.cli import main; raise SystemExit(main())", "probe", "--only", "fs.mounts"],
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as child:
        os.close(follower)
        text = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:
                break
            text += piece
        assert child.stdout is not None
        out = child.stdout.read()
    os.close(leader)
    assert child.returncode == 0
    assert b"4/4" in text
    assert b"\x1b" not in out


@pytest.mark.driver("bwrap")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_on_both_event_loops(backend: str) -> None:
    only = (*QUICK, "process.isolation/signal", "fs.workspace/race-read", "net.default-deny/dns", "process.kill-tree/*")
    report = anyio.run(lambda: run_probes("process", only=only), backend=backend)
    assert {item.id for item in report.results if item.verdict is not Verdict.CONTAINED} == set()
    assert report.exit_status == 0
