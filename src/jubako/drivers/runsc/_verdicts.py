"""Verdicts on gVisor binaries, kept in the user's private cache so that the self-test runs once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from jubako._lib.paths import cache_dir
from jubako.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Verdicts", "binary_digest"]

_FILE: Final = "runsc-verdicts.json"
_LIMIT: Final = 256 * 1024
_KEPT: Final = 32
_CHUNK: Final = 1 << 20

Entry = dict[str, Any]


class Verdicts:
    """What was found out about binaries, by key. Without a usable cache nothing is kept, and nothing fails."""

    def __init__(self, directory: Path | None = None) -> None:
        try:
            self._path: Path | None = (directory or cache_dir()) / _FILE
        except StoreError:
            self._path = None
        self._entries = self._load()

    def get(self, *key: object) -> Entry | None:
        """Return what is kept under ``key``, or None."""
        found = self._entries.get(_name(key))
        return cast("Entry", found) if isinstance(found, dict) else None

    def put(self, entry: Entry, *key: object) -> None:
        """Keep ``entry`` under ``key``; the oldest entries go."""
        name = _name(key)
        self._entries = {other: value for other, value in self._load().items() if other != name}
        self._entries[name] = entry
        while len(self._entries) > _KEPT:
            del self._entries[next(iter(self._entries))]
        self._save()

    def _load(self) -> Entry:
        """Return the file's content; nothing if it is not ours alone to write, or damaged."""
        if self._path is None:
            return {}
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return {}
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            # Whoever could write here could make a crashing or weaker mechanism look proven.
            ours = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if not ours or not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT:
                return {}
            try:
                content = json.loads(file.read(_LIMIT))
            except ValueError:
                return {}
        return cast("Entry", content) if isinstance(content, dict) else {}

    def _save(self) -> None:
        if self._path is None:
            return
        temporary = ""
        try:
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".runsc-")
            with os.fdopen(handle, "w") as file:
                json.dump(self._entries, file)
            Path(temporary).replace(self._path)
        except OSError:  # a full or read-only disk: the next process tests again
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def _name(key: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def binary_digest(path: str, verdicts: Verdicts) -> str:
    """Return the SHA-256 of a binary, remembered as long as the file stays the same. Raises OSError."""
    status = Path(path).stat()
    key = ("digest", path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    known = verdicts.get(*key)
    if known is not None and isinstance(known.get("sha256"), str):
        return cast("str", known["sha256"])
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    verdicts.put({"sha256": digest.hexdigest()}, *key)
    return digest.hexdigest()
