"""Cancelling at random moments leaves no process, record or directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jubako.runtime.owner import owners
from jubako.store import StateStore

pytestmark = pytest.mark.driver("bwrap")


@pytest.mark.parametrize(("count", "latest"), [(120, 0.03), (40, 0.1)])
def test_no_process_outlives_a_cancelled_launch(state_home: Path, count: int, latest: float) -> None:
    script = Path(__file__).with_name("cancel_child.py")
    result = subprocess.run(
        [sys.executable, str(script), str(count), str(latest)], capture_output=True, text=True, timeout=100, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    store = StateStore.open(state_home / "state.db")
    assert store.find() == []
    store.close()
    assert owners(state_home / "run") == frozenset()
