"""The machinery around the checks: deviations, features, required drivers, the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from jubako.boundary.contract import Feature, ProbeReport
from jubako.testing.broken import BROKEN_DRIVERS
from jubako.testing.conformance import AllChecks, Check, Checks, DriverConformance, check, checks_of
from jubako.testing.drivers import VARIABLE, require_driver
from jubako.testing.runner import CheckResult, run_checks

if TYPE_CHECKING:
    from jubako.boundary.contract import Driver

pytest_plugins = ["pytester"]

_SUITE = """
import pytest
from jubako.boundary.contract import BoundaryKind, Feature, ProbeReport
from jubako.testing.conformance import PytestChecks, check

class Stub:
    name = "stub"
    boundary = BoundaryKind.PROCESS

    async def probe(self):
        return ProbeReport(True, "1", frozenset())

class Suite(PytestChecks):
    @pytest.fixture
    def driver(self):
        return Stub()

    @check("stub.kept")
    async def test_stub_kept(self, driver):
        '''Kept.'''

    @check("stub.broken")
    async def test_stub_broken(self, driver):
        '''Broken.'''
        assert driver.name == "another"

    @check("stub.terminal", needs=Feature.TTY)
    async def test_stub_terminal(self, driver):
        '''Not run.'''
        raise AssertionError

    @check("stub.slow", slow=True)
    async def test_stub_slow(self, driver):
        '''Slow.'''
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv(VARIABLE, raising=False)
    pytester.makefile(".ini", pytest="[pytest]\naddopts = -p jubako.testing.plugin --strict-markers\n")
    return pytester


_PATIENT = """
class TestPatient(Suite):
    patience = 40.0

    @check("stub.late", timeout=0.02)
    async def test_stub_late(self, driver):
        '''Late.'''
        import anyio
        from jubako.testing.conformance import stretched
        await anyio.sleep(0.1)
        assert stretched(2.0) == 80.0
"""


def _run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rA", *arguments, timeout=60)


def test_a_check_fails_skips_and_passes_like_a_test(suite: pytest.Pytester) -> None:
    suite.makepyfile(_SUITE + "\nclass TestStub(Suite): pass\n")
    result = _run(suite, "--jubako-report")
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*AssertionError*'stub' == 'another'*"])
    result.stdout.fnmatch_lines(["*driver stub declares no tty: see features.tty*"])
    result.stdout.fnmatch_lines(
        [
            "stub: 2 passed, 1 failed, 1 skipped",
            "  declared gap tty: 1 checks have no meaning without",
        ]
    )
    _run(suite, "-m", "not slow").assert_outcomes(passed=1, failed=1, skipped=1, deselected=1)


def test_patience_with_a_driver_stretches_time(suite: pytest.Pytester) -> None:
    suite.makepyfile(_SUITE + _PATIENT)
    _run(suite, "-k", "late").assert_outcomes(passed=1, deselected=4)
    suite.makepyfile(_SUITE + _PATIENT.replace("patience = 40.0", "patience = 1.0"))
    _run(suite, "-k", "late").assert_outcomes(failed=1, deselected=4)


def test_a_known_deviation_is_an_expected_failure_and_listed(suite: pytest.Pytester) -> None:
    suite.makepyfile(_SUITE + "\nclass TestStub(Suite):\n    known_deviations = {'stub.broken': 'has one name only'}\n")
    result = _run(suite, "--jubako-report")
    result.assert_outcomes(passed=2, xfailed=1, skipped=1)
    result.stdout.fnmatch_lines(["  known deviation stub.broken: has one name only"])


def test_a_deviation_that_is_none_fails(suite: pytest.Pytester) -> None:
    suite.makepyfile(_SUITE + "\nclass TestStub(Suite):\n    known_deviations = {'stub.kept': 'not true'}\n")
    result = _run(suite)
    result.assert_outcomes(passed=1, failed=2, skipped=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*not true*"])


def test_a_deviation_from_no_check_is_refused() -> None:
    with pytest.raises(TypeError, match=r"exec\.exit-cod"):
        type("TestTypo", (DriverConformance,), {"known_deviations": {"exec.exit-cod": "a typo"}})


def test_a_suite_without_a_driver_says_what_to_do(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        "from jubako.testing.conformance import DriverConformance\nclass TestMine(DriverConformance): pass\n"
    )
    result = _run(suite, "-k", "test_plan_pure")
    result.stdout.fnmatch_lines(["*TestMine must override the driver fixture*"])


def test_an_absent_driver_is_skipped_and_listed(suite: pytest.Pytester) -> None:
    suite.makepyfile("from jubako.testing.drivers import require_driver\ndef test_it(): require_driver('nowhere')\n")
    result = _run(suite)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*jubako drivers*", "absent: nowhere: no driver is named 'nowhere'* [[]1 skipped]"])


def test_a_required_driver_that_is_absent_fails(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    # An installed driver that finds nothing on this machine: bubblewrap is not on an empty path.
    suite.makepyfile(
        "import os\nfrom jubako.testing.drivers import require_driver\n"
        "def test_it(monkeypatch):\n    monkeypatch.setenv('PATH', '/nonexistent')\n    require_driver('bwrap')\n"
    )
    monkeypatch.setenv(VARIABLE, "bwrap")
    result = _run(suite)
    if result.parseoutcomes().get("passed"):
        pytest.skip("the driver is found without a path here")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{VARIABLE} asks for driver bwrap, which is absent*"])


def test_a_misspelt_required_driver_stops_the_run(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile("def test_it(): pass\n")
    monkeypatch.setenv(VARIABLE, "bwarp")
    result = _run(suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{VARIABLE}*no driver is named 'bwarp'*"])


def test_require_driver_gives_the_driver(bwrap: Driver) -> None:
    assert require_driver("bwrap").name == bwrap.name


def test_checks_have_ids_promises_and_names_of_their_own() -> None:
    checks = checks_of(AllChecks)
    assert len(checks) >= 60
    assert all(made.promise.endswith(".") for made in checks)
    assert len({made.name for made in checks}) == len(checks)


def test_every_broken_driver_breaks_known_checks_and_says_what_it_does() -> None:
    known = {made.id for made in checks_of(AllChecks)}
    assert len(BROKEN_DRIVERS) >= 25
    for kind in BROKEN_DRIVERS:
        assert kind.breaks <= known
        assert (kind.__doc__ or "").endswith(".")


def test_a_check_must_carry_the_name_of_its_id() -> None:
    with pytest.raises(TypeError, match=r"exec\.one"):

        class Wrong(Checks):
            @check("exec.one")
            async def test_exec_two(self) -> None: ...


class _Absent:
    name = "absent"

    async def probe(self) -> ProbeReport:
        return ProbeReport(available=False, version=None, features=frozenset())


class _Own(AllChecks):
    @check("own.hangs", timeout=0.2)
    async def test_own_hangs(self) -> None:
        """Hangs."""
        await anyio.sleep_forever()

    @check("own.terminal", needs=Feature.TTY)
    async def test_own_terminal(self) -> None:
        """Is not run."""
        raise AssertionError

    @check("own.background")
    async def test_own_background(self, bench: object) -> None:
        """Starts a task that fails."""
        tasks = bench.tasks  # type: ignore[attr-defined]  # a workbench

        async def fail() -> None:
            await checkpoint()
            raise ValueError

        tasks.start_soon(fail)
        await anyio.sleep_forever()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_runner_bounds_time_and_holds_failures_to_their_check(backend: str) -> None:
    def make(_: Check) -> Driver:
        return _Absent()  # type: ignore[return-value]  # nothing but probe is called

    async def run() -> None:
        names = {"own.hangs", "own.terminal", "own.background"}
        outcomes = await run_checks(make, only=names, suite=_Own)
        assert {name: outcome.result for name, outcome in outcomes.items()} == {
            "own.hangs": CheckResult.FAILED,
            "own.terminal": CheckResult.SKIPPED,
            "own.background": CheckResult.FAILED,
        }
        assert isinstance(outcomes["own.hangs"].error, TimeoutError)

    anyio.run(run, backend=backend)
