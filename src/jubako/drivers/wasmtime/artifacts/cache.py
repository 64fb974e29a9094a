"""Precompiled files: native code, so none is used that is not provably this user's own.

An entry is two files in a directory that only this user may enter: the code, and a record that names its size and
its SHA-256. The record is written last, and an entry without a fitting record does not exist. What fails any check
is built again and replaced, never used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.to_thread

from jubako._lib.paths import cache_dir, private_dir
from jubako.errors import LaunchError, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["ArtifactCache", "Entry"]

_FORMAT: Final = 1
_SUFFIX: Final = ".cwasm"
_MAX_BYTES: Final = 2 * 1024**3
_MAX_RECORD: Final = 4096
_WAIT_SECONDS: Final = 0.1
_CHUNK: Final = 1024 * 1024
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_KINDS: Final = frozenset({"component-python", "component-command", "core-command", "core-library"})

# Which file was verified: changing any byte of it changes the last of these.
_Identity = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a verified file: where it is, how it is called, the digest of its WebAssembly."""

    path: Path
    kind: str
    digest: str


class ArtifactCache:
    """The private directory of built files: ``$XDG_CACHE_HOME/jubako/wasm`` unless told otherwise.

    One object remembers which files it has verified, so that only the first use of a file in a process reads it.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._verified: dict[Path, tuple[_Identity, int, str]] = {}

    def directory(self) -> Path:
        """Return the directory, made if missing, ours and closed to others. Raises StoreError."""
        place = private_dir(cache_dir() / "wasm" if self._directory is None else self._directory)
        for parent in place.resolve().parents:
            status = parent.stat()
            if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
                # Whoever can rename the directory away can put another in its place between check and use.
                msg = f"{parent}, above the cache {place}, can be written by everybody"
                raise StoreError(msg, hint=f"chmod o-w {parent}, or set XDG_CACHE_HOME", details={"path": str(parent)})
        return place

    async def find(self, key: str) -> Entry | None:
        """Return the verified entry of that key, or None, also where one fails a check. Raises StoreError."""
        return await anyio.to_thread.run_sync(self._find, key)

    async def install(self, key: str, built: Path, *, kind: str, digest: str) -> Entry:
        """Move a file of ``workplace`` in as the entry of that key. Raises StoreError."""
        return await anyio.to_thread.run_sync(self._install, key, built, kind, digest)

    @asynccontextmanager
    async def workplace(self, key: str) -> AsyncGenerator[Path]:
        """Hold the key's lock among all processes of this user, with a directory that is removed at the end."""
        directory = self.directory()
        # A few locks for all keys: their files stay, since removing one would let two processes hold "it".
        shard = _checked(key)[:2]
        lock = os.open(directory / f"{shard}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while not _locked(lock):  # noqa: ASYNC110  # another process holds it: no event of ours tells
                await anyio.sleep(_WAIT_SECONDS)
            # Of a process that was killed while it held the lock.
            for left in directory.glob(f".build-{shard}-*"):
                await anyio.to_thread.run_sync(shutil.rmtree, left)
            with tempfile.TemporaryDirectory(dir=directory, prefix=f".build-{shard}-") as place:
                yield Path(place)
        finally:
            os.close(lock)

    def _find(self, key: str) -> Entry | None:
        directory = self.directory()
        path, record = directory / f"{_checked(key)}{_SUFFIX}", directory / f"{key}.json"
        try:
            return self._verify(path, record)
        except (OSError, ValueError, KeyError, TypeError):
            # Missing, damaged, foreign or of another version: as if it were not there, so it is built again.
            self._verified.pop(path, None)
            return None

    def _verify(self, path: Path, record: Path) -> Entry:
        """Return the entry, or raise an error of any kind that ``_find`` names."""
        with _open_own(record) as file:
            fields = json.loads(file.read(_MAX_RECORD))
        if fields["format"] != _FORMAT or fields["kind"] not in _KINDS or not _KEY.fullmatch(fields["digest"]):
            raise ValueError("not a record of this version")
        with _open_own(path) as file:
            expected = (_identity(file.fileno()), fields["size"], fields["sha256"])
            if self._verified.get(path) != expected:
                if expected[0][2] != fields["size"] or _sha256(file.fileno()) != fields["sha256"]:
                    raise ValueError("not the file that was built")
                self._verified[path] = expected
        return Entry(path, fields["kind"], fields["digest"])

    def _install(self, key: str, built: Path, kind: str, digest: str) -> Entry:
        directory = self.directory()
        path, record = directory / f"{_checked(key)}{_SUFFIX}", directory / f"{key}.json"
        try:
            with _open_own(built) as file:
                # Readable by all inside of a directory that is closed to them: a sandbox may run as another user.
                os.fchmod(file.fileno(), 0o444)
                os.fsync(file.fileno())
                size, sha256 = os.fstat(file.fileno()).st_size, _sha256(file.fileno())
            fields = {"format": _FORMAT, "kind": kind, "digest": digest, "size": size, "sha256": sha256}
            with contextlib.suppress(FileNotFoundError):
                record.unlink()
            built.replace(path)
            _write(record, json.dumps(fields).encode())
            _prune(directory, keep=path)
        except (OSError, ValueError) as error:
            msg = f"can't store a compiled program in {directory}: {error}"
            raise StoreError(msg, hint="look at the space and the permissions there") from error
        entry = self._find(key)
        if entry is None:
            msg = f"a compiled program did not survive being stored in {directory}"
            raise LaunchError(msg, hint="look for other programs that change files there")
        return entry


def _prune(directory: Path, *, keep: Path) -> None:
    """Remove the oldest entries while there is more than the cache may hold."""
    files = sorted((file.stat().st_mtime_ns, file.stat().st_size, file) for file in directory.glob(f"*{_SUFFIX}"))
    total = sum(size for _, size, _ in files)
    for _, size, file in files:
        if total <= _MAX_BYTES:
            return
        if file != keep:
            file.with_suffix(".json").unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            total -= size


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        msg = f"not a key: {key!r}"
        raise ValueError(msg)
    return key


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _OwnFile:
    """An open file of this user's that nobody else can write."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def read(self, limit: int) -> bytes:
        data = os.read(self._fd, limit + 1)
        if len(data) > limit:
            raise ValueError("too large")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _open_own(path: Path) -> _OwnFile:
    """Open for reading. Raises OSError, and ValueError when it is not a plain file of ours alone."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(fd)
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or others or status.st_nlink != 1:
        os.close(fd)
        raise ValueError("not a plain file of this user alone")
    return _OwnFile(fd)


def _identity(fd: int) -> _Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _sha256(fd: int) -> str:
    digest, offset = hashlib.sha256(), 0
    while data := os.pread(fd, _CHUNK, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Put a file in place whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".record-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
