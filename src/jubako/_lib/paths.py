"""Where jubako keeps its files: the XDG base directories, private to the user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from jubako.errors import StoreError

__all__ = ["cache_dir", "private_dir", "runtime_dir", "state_dir"]


def private_dir(path: Path) -> Path:
    """Return ``path`` as a directory that only this user can enter, made with its parents if missing.

    Raises StoreError when it is a link, not a directory, or another user's. Looser permissions of an
    own directory are tightened.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Opened and judged through the descriptor, so that nobody can swap it in between.
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        msg = f"can't use {path} as a private directory: {error.strerror}"
        raise StoreError(msg, hint="set XDG_STATE_HOME to a directory of yours", details={"path": str(path)}) from error
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            msg = f"{path} belongs to another user (uid {status.st_uid})"
            raise StoreError(msg, hint="remove it or set XDG_STATE_HOME elsewhere", details={"path": str(path)})
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return path


def _base(variable: str, fallback: str) -> Path:
    """The XDG rule: the variable counts only when it holds an absolute path."""
    value = os.environ.get(variable, "")
    if value.startswith("/"):
        return Path(value)
    try:
        return Path.home() / fallback
    except RuntimeError as error:
        msg = f"no home directory for uid {os.geteuid()}"
        raise StoreError(msg, hint=f"set {variable} to an absolute path") from error


def state_dir() -> Path:
    """Return the private directory for records and ledgers: ``$XDG_STATE_HOME/jubako``."""
    return private_dir(_base("XDG_STATE_HOME", ".local/state") / "jubako")


def cache_dir() -> Path:
    """Return the private directory for what can be made again: ``$XDG_CACHE_HOME/jubako``."""
    return private_dir(_base("XDG_CACHE_HOME", ".cache") / "jubako")


def runtime_dir() -> Path:
    """Return the private directory for sockets and locks: ``$XDG_RUNTIME_DIR/jubako``, else below the state."""
    value = os.environ.get("XDG_RUNTIME_DIR", "")
    if value.startswith("/") and Path(value).is_dir():
        return private_dir(Path(value) / "jubako")
    return private_dir(state_dir() / "run")
