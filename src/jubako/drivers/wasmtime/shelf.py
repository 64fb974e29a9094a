"""Files that jailed users can reach: what a sandbox maps must be readable for its own host user.

A sandbox that root makes runs as a host user who owns nothing, and root's caches and environments often
lie where that user can't go. Such files are copied, once, to a directory of root's that all may read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

from jubako.errors import LaunchError

__all__ = ["SHELF", "reachable"]

SHELF: Final = Path("/var/cache/jubako")
"""Root's own, for files that are no secret; safe to remove whenever no sandbox runs."""


def reachable(path: Path, *, jailed_apart: bool, shelf: Path = SHELF) -> Path:
    """Return where jailed users find the file ``path``.

    ``jailed_apart`` says that sandboxes run as other users than ours. Raises LaunchError.
    """
    try:
        real = path.resolve(strict=True)
        if not jailed_apart or _open_to_all(real):
            return real
        return _copy(real, shelf)
    except OSError as error:
        msg = f"{path} can't be shown to sandboxes: {error.strerror}"
        raise LaunchError(msg, hint=f"look at the permissions of {shelf}", details={"path": str(path)}) from error


def _open_to_all(path: Path) -> bool:
    ways = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
    return ways and bool(path.stat().st_mode & stat.S_IROTH)


def _copy(path: Path, shelf: Path) -> Path:
    """Return the copy of ``path``, made if it is not there: its name holds what the original is."""
    shelf.mkdir(mode=0o755, parents=True, exist_ok=True)
    for place in (shelf, *shelf.parents):
        status = place.stat()
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        if status.st_uid not in {0, os.geteuid()} or writable:
            # Whoever can write here could put code of theirs into every sandbox's worker.
            msg = f"{place} can be written by others"
            raise LaunchError(msg, hint=f"chown root {place}; chmod 755 {place}")
    status = path.stat()
    told = f"{path}\0{status.st_dev}\0{status.st_ino}\0{status.st_size}\0{status.st_mtime_ns}"
    target = shelf / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}-{path.name}"
    if _ours(target, status.st_size):
        return target
    handle, temporary = tempfile.mkstemp(dir=shelf, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as copy, path.open("rb") as original:
            shutil.copyfileobj(original, copy, 1024 * 1024)
            os.fchmod(copy.fileno(), 0o444)
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    return target


def _ours(path: Path, size: int) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    mine = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISREG(status.st_mode) and mine and status.st_size == size
