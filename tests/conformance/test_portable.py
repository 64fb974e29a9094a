"""The suite on a boundary without processes: programs are Python only, and find nothing of POSIX to lean on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import pytest

from jubako.boundary.contract import Feature
from jubako.testing.broken import BrokenDriver, BrokenInstance
from jubako.testing.conformance import AllChecks, Check, checks_of
from jubako.testing.runner import CheckResult, run_checks

if TYPE_CHECKING:
    from jubako.boundary.contract import Driver, ExecRequest, ProbeReport, Process

pytestmark = pytest.mark.timeout(300)

_LACKING: Final = frozenset({
    Feature.BACKGROUND, Feature.PORTS, Feature.PRELOAD, Feature.PROCESSES, Feature.SIGNALS, Feature.TOOLS, Feature.TTY,
})  # fmt: skip

_PRELUDE: Final = """
import os, sys
for name in ("_ctypes", "_posixsubprocess", "_signal", "_socket", "ctypes", "fcntl", "mmap", "pwd", "resource",
             "signal", "socket", "subprocess", "termios"):
    sys.modules[name] = None
for name in ("chmod", "chown", "execv", "fork", "forkpty", "geteuid", "getuid", "kill", "mkfifo", "posix_spawn",
             "setsid", "uname", "wait", "waitpid"):
    delattr(os, name)
"""
"""What CPython for WASI doesn't have."""


class _WithoutProcesses(BrokenDriver):
    class _Instance(BrokenInstance):
        async def exec(self, request: ExecRequest) -> Process:
            """Take Python's own modules away from programs, and everything else from the caller."""
            first = request.argv[0] if request.argv else ""
            if request.argv[:2] == ("python3", "-c"):
                code = f"{_PRELUDE}\n{request.argv[2]}"
                request = replace(request, argv=("python3", "-c", code, *request.argv[3:]))
            elif first not in {"", "python3"} and any(
                (Path(place) / first).is_file() for place in ("/bin", "/usr/bin")
            ):
                pytest.fail(f"{first} is started by a check that doesn't say that it needs processes")
            return await super().exec(request)

    instance_type = _Instance

    async def probe(self) -> ProbeReport:
        """Declare what is left."""
        report = await super().probe()
        return replace(report, features=report.features - _LACKING)


def test_the_suite_leans_on_nothing_that_a_boundary_without_processes_lacks(bwrap: Driver) -> None:
    def make(_: Check) -> Driver:
        return cast("Driver", _WithoutProcesses(bwrap))  # its name and boundary are the inner driver's

    # What is only undeclared here is there all the same, which is what features.* look for.
    names = {made.id for made in checks_of(AllChecks) if not made.id.startswith("features.")}
    outcomes = anyio.run(partial(run_checks, make, only=names - {"exec.exit-code-every"}))
    failed = {name: outcome.error for name, outcome in outcomes.items() if outcome.result is CheckResult.FAILED}
    assert not failed
    passed = {name for name, outcome in outcomes.items() if outcome.result is CheckResult.PASSED}
    assert len(passed) >= 130
    # No group of checks may fall away as a whole, but for those that are about what is lacking.
    kept = {made.id.partition(".")[0] for made in checks_of(AllChecks) if not made.needs & _LACKING}
    assert kept - {"features"} <= {name.partition(".")[0] for name in passed}
