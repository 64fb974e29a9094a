"""``explain``, ``doctor`` and ``audit verify`` as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.driver("bwrap")


def on_process(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Choose the boundary that these tests are about; by itself the strongest of the machine is taken."""
    if arguments[0] not in {"run", "explain"} or "--boundary" in arguments:
        return arguments
    return (arguments[0], "--boundary", "process", *arguments[1:])


def jubako(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jubako", *on_process(arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=env,
    )


def test_explain_shows_the_card_and_starts_nothing(state_home: Path) -> None:
    result = jubako("explain")
    assert result.returncode == 0
    assert "process by bwrap" in result.stdout
    assert "net.default-deny" in result.stdout
    assert "\x1b" not in result.stdout
    document = json.loads(jubako("explain", "--json").stdout)
    assert document["boundary"]["driver"] == "bwrap"
    assert document["digest"].startswith("sha256:")
    assert {control["verdict"] for control in document["controls"]} == {"ok"}
    assert not (state_home / "run").exists()


def test_the_card_of_explain_is_the_card_of_run() -> None:
    shown = json.loads(jubako("explain", "--json").stdout)["digest"]
    assert json.loads(jubako("run", "--json", "-c", "1").stdout)["card"] == shown


def test_doctor_lists_what_holds_and_what_to_do() -> None:
    result = jubako("doctor")
    assert result.returncode == 0
    assert "bwrap (process boundary): works" in result.stdout
    assert "net.default-deny" in result.stdout
    assert result.stdout.endswith("ready: the default policy can be enforced here\n")
    report = json.loads(jubako("doctor", "--json").stdout)
    assert report["ok"] is True
    driver = next(item for item in report["drivers"] if item["name"] == "bwrap")
    assert {"name", "available", "features", "reasons", "controls", "usable"} <= set(driver)
    assert all(control["level"] in {"enforced", "partial", "unenforced"} for control in driver["controls"])


def test_doctor_without_bubblewrap_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    environment = {"PATH": str(tmp_path / "empty"), "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    result = jubako("doctor", env=environment)
    if "bwrap (process boundary): works" in result.stdout:
        pytest.skip("bubblewrap also came with the virtual environment")
    assert result.returncode == 1
    assert "apt-get install bubblewrap" in result.stdout
    assert "jubako[bwrap]" in result.stdout
    failed = jubako("run", "-c", "1", env=environment)
    assert failed.returncode == 125
    assert failed.stderr.startswith("jubako: driver-unavailable: ")
    assert "apt-get install bubblewrap" in failed.stderr


def test_audit_finds_what_was_changed(state_home: Path) -> None:
    assert jubako("run", "-c", "1").returncode == 0
    result = jubako("audit", "verify")
    assert result.returncode == 0
    assert "intact" in result.stdout
    report = json.loads(jubako("audit", "verify", "--json").stdout)
    head = report["head"]
    assert report["ok"] is True
    assert jubako("audit", "verify", "--head", f"{head['count']}:{head['hash']}").returncode == 0
    assert jubako("audit", "verify", "--head", f"{head['count'] + 1}:{head['hash']}").returncode == 1
    ledger = state_home / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    changed_lines = [line.replace(b"running", b"stopped") for line in lines]
    assert changed_lines != lines
    ledger.write_bytes(b"".join(changed_lines))
    changed = jubako("audit", "verify", str(ledger), "--json")
    assert changed.returncode == 1
    assert json.loads(changed.stdout)["problem"]["kind"] in {"changed", "deleted", "truncated"}
    ledger.write_bytes(b"".join(lines[:-1]))
    cut = jubako("audit", "verify")
    assert cut.returncode == 1
    assert "truncated" in cut.stdout
