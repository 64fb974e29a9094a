from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from jubako._lib.paths import cache_dir, private_dir, runtime_dir, state_dir
from jubako.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directories_follow_xdg_and_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, make in (("XDG_STATE_HOME", state_dir), ("XDG_CACHE_HOME", cache_dir)):
        monkeypatch.setenv(variable, str(tmp_path / variable / "deep"))
        found = make()
        assert found == tmp_path / variable / "deep" / "jubako"
        assert mode(found) == 0o700


def test_relative_values_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert state_dir() == tmp_path / ".local/state/jubako"
    assert cache_dir() == tmp_path / ".cache/jubako"


def test_the_runtime_directory_falls_back_to_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert runtime_dir() == tmp_path / "jubako/run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert runtime_dir() == tmp_path / "jubako/run"
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert runtime_dir() == tmp_path / "run/jubako"


def test_an_open_directory_is_tightened(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o777)
    assert mode(private_dir(tmp_path / "d")) == 0o700


def test_the_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert mode(private_dir(tmp_path / "a" / "b")) == 0o700
    finally:
        os.umask(before)


def test_links_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(StoreError, match="as a private directory"):
            private_dir(tmp_path / name)


@pytest.mark.root
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.chown(tmp_path / "d", 65534, 65534)
    with pytest.raises(StoreError, match="another user"):
        private_dir(tmp_path / "d")
    assert mode(tmp_path / "d") != 0o700
