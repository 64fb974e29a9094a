"""The wheel: what is in it, and what it can do where nothing else is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from documents import ROOT, tracked

from jubako import __version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a fresh environment that has the wheel, and sees the dependencies of ours."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    python = str(home / "bin/python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    # A path file's own path files are not read, so the editable install of the checkout stays unseen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def run(installed: Path, tmp_path: Path, *arguments: str, code: int | None = 0) -> str:
    # No PATH, so no bwrap and no setpriv, wherever they are installed.
    env = {"PATH": "", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "COLUMNS": "200"}
    command = [str(installed / "bin/jubako"), *arguments]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_the_wheel_holds_what_the_library_needs_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {str(path.relative_to(ROOT / "src")) for path in tracked("src/jubako/*")}
    assert wanted - names == set()
    assert "jubako/py.typed" in names
    assert any(name.startswith("jubako/agent/") for name in names)
    assert any(name.startswith("jubako/probes/programs/") for name in names)
    outside = {name for name in names if not name.startswith(("jubako/", f"jubako-{__version__}.dist-info/"))}
    assert not outside
    assert {Path(name).name for name in names if ".dist-info/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_the_wheel_registers_command_and_driver(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"jubako-{__version__}.dist-info/entry_points.txt").decode()
        metadata = archive.read(f"jubako-{__version__}.dist-info/METADATA").decode()
    assert "jubako = jubako.cli:main" in text
    assert "bwrap = jubako.drivers.bwrap:BwrapDriver" in text
    assert "License-Expression: Apache-2.0" in metadata


def test_the_installed_wheel_is_not_the_checkout(installed: Path) -> None:
    command = [str(installed / "bin/python"), "-c", "import jubako, anyio; print(jubako.__file__)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", env={})
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_version_of_the_installed_command(installed: Path, tmp_path: Path) -> None:
    assert __version__ in run(installed, tmp_path, "--version")


def test_doctor_explains_what_is_missing(installed: Path, tmp_path: Path) -> None:
    text = run(installed, tmp_path, "doctor", code=None)
    assert "bubblewrap" in text
    assert "apt-get install bubblewrap" in text
    assert "jubako[bwrap]" in text


def test_doctor_says_it_to_programs_too(installed: Path, tmp_path: Path) -> None:
    report = json.loads(run(installed, tmp_path, "doctor", "--json", code=None))
    (driver,) = [item for item in report["drivers"] if item["name"] == "bwrap"]
    assert driver["available"] is False
    assert "bwrap-missing" in [item["code"] for item in driver["reasons"]]
    assert all(item["remedy"] for item in driver["reasons"] if item["code"] == "bwrap-missing")


def test_run_says_why_it_can_not(installed: Path, tmp_path: Path) -> None:
    text = run(installed, tmp_path, "run", "-c", "print(6 * 7)", code=125)
    assert "bubblewrap" in text
    assert "42" not in text


def test_the_source_archive_builds_and_is_complete(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    listing = subprocess.run(["tar", "tzf", str(archive)], capture_output=True, text=True, check=True).stdout.split()
    names = {name.partition("/")[2] for name in listing}
    for wanted in (
        "src/jubako/py.typed",
        "README.md",
        "LICENSE",
        "Makefile",
        "docs/threat-model.md",
        "scripts/setup.sh",
    ):
        assert wanted in names
