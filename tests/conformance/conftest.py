"""The driver that the conformance tests run on."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.drivers.wasmtime.artifacts import javascript_program, python_program
from jubako.testing.drivers import require_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jubako.boundary.contract import Driver

_USER = "jubakotest"


@pytest.fixture(scope="session")
def bwrap() -> Driver:
    """The process boundary's driver, with its probe made once."""
    return require_driver("bwrap")


@pytest.fixture(scope="session")
def runsc() -> Driver:
    """The gVisor boundary's driver, with its probe made once."""
    return require_driver("runsc")


@pytest.fixture(scope="session")
def wasmtime(shared_cache: Path) -> Driver:
    """The WebAssembly boundary's driver, with its probe made and its interpreters built once."""
    driver = require_driver("wasmtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared_cache))
        anyio.run(python_program)
        anyio.run(javascript_program)
    return driver


@pytest.fixture
def as_ordinary_user() -> Iterator[Callable[..., None]]:
    """Run tests again, in a process of their own, as a user without rights; they must pass."""
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

    def run(*arguments: str) -> None:
        program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={home}/pytest", "-rfE"]
        path = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        done = subprocess.run(
            [setpriv, f"--reuid={_USER}", f"--regid={_USER}", "--init-groups", "--", *program, *arguments],
            cwd=Path(__file__).parents[2],
            env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **path},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert " passed" in done.stdout

    yield run
    shutil.rmtree(home, ignore_errors=True)
