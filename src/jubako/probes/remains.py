"""What a run puts on the host is written down first, so that the next run removes it if this one is killed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from jubako._lib.paths import private_dir, state_dir
from jubako.probes.kernelobjects import remove_object

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Remains", "open_remains"]

_LIMIT: Final = 64 * 1024


class Remains:
    """The notes of one run: paths, and objects of the IPC namespace. Held by a lock that dies with the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def path(self, path: Path) -> None:
        """Note a file or directory that is about to be made."""
        self._note({"path": str(path)})

    def ipc(self, kind: str, key: int | str) -> None:
        """Note an IPC object that is about to be made, by its kind and key."""
        self._note({"object": kind, "key": key, "boot": _boot()})

    def _note(self, entry: dict[str, object]) -> None:
        os.write(self._descriptor, json.dumps(entry).encode() + b"\n")


@contextmanager
def open_remains(name: str) -> Generator[Remains]:
    """Remove what dead runs have left, then yield the notes of this one; they go when it ends in order."""
    folder = private_dir(private_dir(state_dir() / "probes") / "running")
    for path in folder.iterdir():
        if not path.name.startswith("."):
            _remove_dead(path)
    path, unlocked = folder / name, folder / f".{name}"
    descriptor = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        unlocked.rename(path)  # from here on others see it, and see that it is locked
        yield Remains(descriptor)
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _remove_dead(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for line in os.read(descriptor, _LIMIT).splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    _remove(cast("dict[str, object]", json.loads(line)))
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _remove(entry: dict[str, object]) -> None:
    if "path" in entry:
        path = Path(str(entry["path"]))
        if "jubako-probe-" not in path.name:
            return  # whatever wrote that, it was no run of ours
        with suppress(OSError):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
    elif entry["boot"] == _boot():
        remove_object(str(entry["object"]), cast("int | str", entry["key"]))


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""
