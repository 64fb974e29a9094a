"""The conformance suite on the process boundary: both event loops, and as an ordinary user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jubako.testing.conformance import DriverConformance

if TYPE_CHECKING:
    from jubako.boundary.contract import Driver

_USER = "jubakotest"


class TestBwrap(DriverConformance):
    """As whoever runs the tests."""

    @pytest.fixture
    def driver(self, bwrap: Driver) -> Driver:
        return bwrap


class TestBwrapOnTrio(DriverConformance):
    """The same on the other event loop."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"

    @pytest.fixture
    def driver(self, bwrap: Driver) -> Driver:
        return bwrap


@pytest.mark.root
@pytest.mark.timeout(300)
def test_the_suite_as_an_ordinary_user(tmp_path: Path, bwrap: Driver) -> None:
    """Without root there may be no cgroups: what the plan calls partial is checked as partial."""
    try:
        user = pwd.getpwnam(_USER)
    except KeyError:
        pytest.skip(f"no user {_USER} on this machine (useradd -m {_USER})")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("no setpriv on this machine")
    home = Path("/var/tmp") / f"jubako-user-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, user.pw_uid, user.pw_gid)
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={home}/pytest", "-rfE"]
    try:
        done = subprocess.run(
            [
                *(setpriv, f"--reuid={_USER}", f"--regid={_USER}", "--init-groups", "--"),
                *program,
                f"{__file__}::TestBwrap",
            ],
            cwd=Path(__file__).parents[2],
            env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
