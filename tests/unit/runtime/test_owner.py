from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from jubako.errors import StoreError
from jubako.runtime.owner import OwnerLock, owners

if TYPE_CHECKING:
    from pathlib import Path

HOLDER = """
import sys, time
from pathlib import Path
from jubako.runtime.owner import OwnerLock
lock = OwnerLock.acquire(Path(sys.argv[1]), "mine")
assert lock is not None
lock.directory.mkdir()
print("held", flush=True)
time.sleep(60)
"""


def take(run: Path, owner: str) -> OwnerLock:
    lock = OwnerLock.acquire(run, owner)
    assert lock is not None
    return lock


def test_lock_of_another_process_cannot_be_taken_until_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert OwnerLock.acquire(tmp_path, "mine") is None
        holder.kill()
        holder.wait()
        lock = take(tmp_path, "mine")
    assert owners(tmp_path) == {"mine"}
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_release_removes_directory_and_file_and_is_idempotent(tmp_path: Path) -> None:
    lock = take(tmp_path, "a")
    lock.directory.mkdir()
    (lock.directory / "sandbox").mkdir()
    (lock.directory / "sandbox" / "file").write_text("x")
    lock.release()
    lock.release()
    assert owners(tmp_path) == frozenset()


def test_abandon_leaves_everything_for_the_next(tmp_path: Path) -> None:
    lock = take(tmp_path, "a")
    lock.directory.mkdir()
    lock.abandon()
    assert owners(tmp_path) == {"a"}
    assert lock.directory.is_dir()
    take(tmp_path, "a").release()


def test_lock_is_private_and_not_inherited(tmp_path: Path) -> None:
    lock = take(tmp_path, "a")
    assert (tmp_path / "a.lock").stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(lock._descriptor)
    lock.release()


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="can't be opened"):
        OwnerLock.acquire(tmp_path, "a")


def test_a_removed_file_is_noticed_between_open_and_lock(tmp_path: Path) -> None:
    """Owners start while a reaper removes their files: each must end with a lock on the file in the directory."""
    stop = threading.Event()
    wrong: list[str] = []

    def reap() -> None:
        while not stop.is_set():
            lock = OwnerLock.acquire(tmp_path, "x")
            if lock is not None:
                lock.release()

    reaper = threading.Thread(target=reap)
    reaper.start()
    try:
        held = 0
        while held < 300:
            lock = OwnerLock.acquire(tmp_path, "x")
            if lock is None:
                continue
            held += 1
            mine, named = os.fstat(lock._descriptor).st_ino, (tmp_path / "x.lock").stat().st_ino
            if mine != named:
                wrong.append(f"{mine} is not {named}")
            lock.release()
    finally:
        stop.set()
        reaper.join()
    assert wrong == []
    assert owners(tmp_path) == frozenset()
