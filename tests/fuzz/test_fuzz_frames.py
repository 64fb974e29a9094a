"""A bounded run of the frame fuzzer; ``make fuzz`` has the long one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jubako.guest.wire import Rule

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_frames.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_frames", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_escapes_and_every_rule_is_reached(fuzz: ModuleType) -> None:
    fuzzer = fuzz.Fuzzer(1)
    fuzzer.run(200_000)
    assert fuzzer.frames >= 200_000
    assert set(fuzzer.rules) == {str(rule) for rule in Rule}


def test_a_session_is_repeated_by_its_seed(fuzz: ModuleType) -> None:
    first, second = fuzz.Fuzzer(5), fuzz.Fuzzer(8)
    first.run(10**9, sessions=4)
    alone = fuzz.Fuzzer(8)
    second.run(10**9, sessions=1)
    alone.run(10**9, sessions=1)
    before = fuzz.Fuzzer(5)
    before.run(10**9, sessions=3)
    assert alone.frames == second.frames == first.frames - before.frames


def test_a_failure_names_its_seed(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("escaped from the parser")

    monkeypatch.setattr(fuzz.Machine, "_handle_session", broken)
    assert fuzz.main(["--frames", "10", "--seed", "77"]) == 1
    assert "seed 77: KeyError" in capsys.readouterr().err
