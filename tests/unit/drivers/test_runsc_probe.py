"""A gVisor binary is used only after it passed a self-test, and is tested once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jubako.drivers.runsc._probe import probe_runsc
from jubako.drivers.runsc._selftest import ABILITIES, LIMITS, SelfTest, self_test
from jubako.drivers.runsc._verdicts import Verdicts, binary_digest
from jubako.drivers.runsc._verify import verify_sandbox
from jubako.jail.bubblewrap import probe_machine

if TYPE_CHECKING:
    from collections.abc import Collection

    from jubako.jail.bubblewrap import Machine

pytestmark = pytest.mark.driver("bwrap")

HELD = dict.fromkeys((*LIMITS, *ABILITIES), True)


class Judge:
    """Says of each platform what it was told to, and counts."""

    def __init__(self, **problems: str) -> None:
        self.problems = problems
        self.asked: list[str] = []

    def __call__(self, binary: str, known: Collection[str], platform: str, machine: Machine) -> SelfTest:
        assert Path(binary).is_file()
        assert "network" in known
        assert machine.bwrap
        self.asked.append(platform)
        return SelfTest(self.problems.get(platform, ""), dict(HELD))


SCRIPT = """\
#!/bin/sh
if [ "$1" = --version ]; then
  echo "runsc version test-1"
else
  echo "  -network value"
  echo "  -platform string"
  echo "    specifies which platform to use: systrap (default), ptrace, kvm"
fi
"""


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that describes itself as runsc does."""
    path = tmp_path / "runsc"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    monkeypatch.setenv("JUBAKO_RUNSC", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the same text was judged in other tests
    return path


def test_the_first_platform_that_passes_is_used(binary: Path) -> None:
    judge = Judge()
    machine = probe_runsc(Verdicts(), judge)
    assert judge.asked == ["systrap"]
    assert (machine.platform, machine.runsc, machine.report.version) == ("systrap", str(binary), "test-1")
    assert machine.report.available
    assert machine.report.facts["runsc.limit.processes"] is True
    assert not [item for item in machine.report.reasons if item.code.startswith("runsc")]


def test_a_platform_that_crashes_gives_way_to_the_next(binary: Path) -> None:
    judge = Judge(systrap="self-test 2 of 3: exit status 2: it said nothing")
    machine = probe_runsc(Verdicts(), judge)
    assert (machine.platform, machine.runsc) == ("ptrace", str(binary))
    (reason,) = (item for item in machine.report.reasons if item.code == "runsc-platform-unusable")
    assert "systrap" in reason.text
    assert "exit status 2" in reason.text


@pytest.mark.usefixtures("binary")
def test_without_a_platform_the_driver_is_unavailable_and_says_why() -> None:
    machine = probe_runsc(Verdicts(), Judge(systrap="exit status 2", ptrace="no end within 30 s"))
    assert not machine.report.available
    assert machine.report.features == frozenset()
    texts = [item.text for item in machine.report.reasons if item.code == "runsc-unusable"]
    assert len(texts) == 2
    remedy = next(item.remedy for item in machine.report.reasons if item.code == "runsc-unusable")
    assert "upstream release" in remedy


def test_the_verdict_is_kept_for_this_binary(binary: Path) -> None:
    judge = Judge(systrap="broken")
    first = probe_runsc(Verdicts(), judge)
    again = probe_runsc(Verdicts(), judge)
    assert judge.asked == ["systrap", "ptrace"]
    assert again.report == first.report
    binary.write_text(binary.read_text() + "# another release\n")
    probe_runsc(Verdicts(), judge)
    assert judge.asked == ["systrap", "ptrace"] * 2


def test_what_old_releases_lack_is_told(binary: Path) -> None:
    def old(*_: object) -> SelfTest:
        return SelfTest(held={**HELD, "list": False})

    machine = probe_runsc(Verdicts(binary.parent), old)
    assert machine.report.available
    assert "runsc-no-automount" in {item.code for item in machine.report.reasons}


@pytest.mark.parametrize("path", ["/nonexistent/runsc", "/etc/passwd"])
def test_a_wrong_path_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUBAKO_RUNSC", path)
    report = probe_runsc(Verdicts(), Judge()).report
    assert not report.available
    (reason,) = (item for item in report.reasons if item.code == "runsc-missing")
    assert path in reason.text
    assert reason.remedy


def test_something_else_is_not_taken_for_runsc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUBAKO_RUNSC", "/bin/true")
    report = probe_runsc(Verdicts(), Judge()).report
    assert not report.available
    assert any("does not say its version" in item.text for item in report.reasons)


def test_a_binary_that_fails_at_once_fails_the_self_test(tmp_path: Path) -> None:
    """A real run in a real jail: the static program ends with a status and says nothing, as a crash does."""
    program = tmp_path / "runsc"
    program.write_bytes(Path("/bin/true").read_bytes())  # has no library in the jail, so that it can't even start
    program.chmod(0o755)
    tmp_path.chmod(0o755)
    result = self_test(str(program), ("network",), "ptrace", probe_machine())
    assert result.problem.startswith("self-test 1 of 3: ")
    assert result.held == {}


@pytest.mark.parametrize("damage", ["others-write", "link", "not-json", "not-a-table"])
def test_a_cache_that_others_could_have_written_is_not_believed(tmp_path: Path, damage: str) -> None:
    Verdicts(tmp_path).put({"platform": "ptrace"}, "key")
    path = tmp_path / "runsc-verdicts.json"
    assert Verdicts(tmp_path).get("key") == {"platform": "ptrace"}
    if damage == "others-write":
        path.chmod(0o666)
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("{" if damage == "not-json" else "[1]")
    assert Verdicts(tmp_path).get("key") is None


def test_the_cache_stays_small_and_survives_a_missing_directory(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    for number in range(40):
        verdicts.put({"number": number}, number)
    assert verdicts.get(0) is None
    assert verdicts.get(39) == {"number": 39}
    assert len(json.loads((tmp_path / "runsc-verdicts.json").read_text())) == 32
    nowhere = Verdicts(tmp_path / "nowhere")
    nowhere.put({}, "key")
    assert Verdicts(tmp_path / "nowhere").get("key") is None
    assert [path.name for path in tmp_path.iterdir()] == ["runsc-verdicts.json"]


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"one")
    verdicts = Verdicts(tmp_path)
    first = binary_digest(str(path), verdicts)
    assert first == binary_digest(str(path), Verdicts(tmp_path))
    path.write_bytes(b"two!")
    assert binary_digest(str(path), verdicts) != first


def test_walls_that_are_not_there_are_missed() -> None:
    class Nothing:
        """A process that is no jail."""

        pid = os.getpid()
        cgroup = None

    wrong = verify_sandbox(Nothing())  # type: ignore[arg-type]  # all that is looked at
    assert wrong == ("process.isolation: no sentry is seen", "process.isolation: no gofer is seen")
