"""Who owns sandboxes: a lock file that the kernel frees when the owner dies.

Each runtime holds ``run/<owner>.lock`` under the state directory with ``flock`` for as long as it
lives. Whoever can take the lock knows that the owner is dead, and may clean up after it while it
holds the lock. The file is removed last, by its holder; a lock on a file that is no longer the one
in the directory is worth nothing, so every taker compares inodes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import TYPE_CHECKING, Final, Self

from jubako.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OwnerLock", "owners"]

_SUFFIX: Final = ".lock"
_ATTEMPTS: Final = 16


class OwnerLock:
    """The right to act for one owner; also its directory ``run/<owner>``."""

    def __init__(self, run: Path, owner: str, descriptor: int) -> None:
        self.owner = owner
        self.directory = run / owner
        self._path = run / f"{owner}{_SUFFIX}"
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, run: Path, owner: str) -> Self | None:
        """Take the lock of ``owner``, making its file; ``None`` when another process holds it."""
        path = run / f"{owner}{_SUFFIX}"
        for _ in range(_ATTEMPTS):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                msg = f"the lock {path} can't be opened: {error.strerror}"
                raise StoreError(msg, hint="the state directory must be writable by this user") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if _same(descriptor, path):
                return cls(run, owner, descriptor)
            # A reaper removed the file between our open and our lock: begin again with a new file.
            os.close(descriptor)
        return None

    def release(self) -> None:
        """Remove the owner's directory and lock file, then free the lock. Idempotent."""
        if self._descriptor < 0:
            return
        shutil.rmtree(self.directory, ignore_errors=True)
        self._path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Free the lock and leave everything for the next reaper. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def owners(run: Path) -> frozenset[str]:
    """Return every owner that has a lock file or a directory here, dead or alive."""
    with os.scandir(run) as entries:
        return frozenset(entry.name.removesuffix(_SUFFIX) for entry in entries)


def _same(descriptor: int, path: Path) -> bool:
    try:
        now = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)
