"""The agent as one file: the same bytes every time, kept where nobody else can write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from jubako.errors import LaunchError
from jubako.guest import agent_file, bundle_agent

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = os.path.realpath(sys.executable)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jubako"


def test_bytes_are_deterministic(cache: Path, tmp_path: Path) -> None:
    seen = {bundle_agent(PYTHON)}
    for seed in ("1", "2"):
        program = "import sys; from jubako.guest.bundle import bundle_agent; sys.stdout.buffer.write(bundle_agent())"
        home = tmp_path / seed
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "XDG_CACHE_HOME": str(home), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1
    assert cache.stat().st_mode & 0o777 == 0o700


def test_another_interpreter_builds_its_own(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "python"
    shutil.copy(PYTHON, other)
    assert bundle_agent(str(other)) == bundle_agent(PYTHON)
    assert len(list(cache.iterdir())) == 2


def test_it_is_built_once(cache: Path) -> None:
    path = agent_file(PYTHON)
    before = path.stat()
    assert agent_file(PYTHON) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(cache.iterdir()) == [path]


@pytest.mark.parametrize("harm", ["writable", "link", "empty"])
def test_a_file_that_others_could_have_made_is_replaced(cache: Path, tmp_path: Path, harm: str) -> None:
    path = agent_file(PYTHON)
    good = path.read_bytes()
    if harm == "writable":
        path.write_bytes(b"evil")
        path.chmod(0o666)
    elif harm == "link":
        path.unlink()
        (tmp_path / "evil").write_bytes(b"evil")
        path.symlink_to(tmp_path / "evil")
    else:
        path.write_bytes(b"")
    assert bundle_agent(PYTHON) == good
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_directory_that_others_can_write_is_refused(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(LaunchError, match="can be written by others"):
        agent_file(PYTHON)


def test_interpreters_that_do_not_work(cache: Path) -> None:
    for interpreter in ("/no/such/python", "/bin/false"):
        with pytest.raises(LaunchError):
            agent_file(interpreter)
    assert not list(cache.glob("*.pyc"))


def test_agent_without_a_host_ends(cache: Path) -> None:
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-B", agent_file(PYTHON), "--fd", "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert cache.exists()
