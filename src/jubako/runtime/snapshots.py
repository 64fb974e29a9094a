"""The catalogue of snapshots: directories named by the digest of what is in them, and a record of each.

A snapshot is written into a directory of its owner's, brought to the disk, and only then renamed to its
place and recorded, so that a crash at any point leaves the catalogue as it was. Placing and removing
hold one lock; a sandbox that is being restored has its record before it looks for the snapshot's, so
that removing sees it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Final

import anyio

from jubako._lib.ids import short_id
from jubako._lib.jsontext import digest as digest_of
from jubako._lib.paths import private_dir
from jubako.boundary.contract import SnapshotRef
from jubako.errors import InvalidRequestError, JubakoError, SnapshotError, SnapshotNotFoundError
from jubako.policy import SandboxSpec
from jubako.store import SnapshotRecord, SnapshotTable
from jubako.store.snapshots import name_taken

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from jubako.store import StateStore

__all__ = ["Draft", "Snapshot", "SnapshotCatalogue"]

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_PREFIX: Final = re.compile(r"[0-9a-f]{6,64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TEMPORARY: Final = ".new-"
_PAUSE: Final = 0.005


@dataclass(frozen=True)
class Snapshot:
    """A sandbox written down, from which others go on.

    Attributes:
        digest: SHA-256, in hex, over its files.
        name: The caller's name for it, if it has one.
        driver: The mechanism that wrote it and alone can read it.
        boundary: The kind of wall.
        origin: Id of the sandbox that it was made of.
        size: Bytes on the disk.
        created: When it was made.
        requires: What must be the same where it is restored.
        preload: The modules that its Python has imported already.
    """

    record: SnapshotRecord

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over its files."""
        return self.record.digest

    @property
    def name(self) -> str | None:
        """The caller's name for it, if it has one."""
        return self.record.name

    @property
    def driver(self) -> str:
        """The mechanism that wrote it and alone can read it."""
        return self.record.driver

    @property
    def boundary(self) -> str:
        """The kind of wall."""
        return self.record.boundary

    @property
    def origin(self) -> str:
        """Id of the sandbox that it was made of."""
        return self.record.origin

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return self.record.size

    @property
    def created(self) -> datetime:
        """When it was made."""
        return self.record.created

    @cached_property
    def spec(self) -> SandboxSpec:
        """What its sandbox was made to; a child has at most the rights of this policy."""
        try:
            return SandboxSpec.model_validate_json(self.record.spec)
        except ValueError as error:
            msg = f"the record of snapshot {self.digest[:12]} can't be read by this version"
            raise SnapshotError(msg, hint="make the snapshot again", details={"snapshot": self.digest}) from error

    @property
    def ref(self) -> SnapshotRef:
        """What drivers call it by."""
        return SnapshotRef(self.driver, self.digest, self.record.parent, self.record.requires)

    def document(self) -> dict[str, object]:
        """Return what there is to know as JSON-able data."""
        return {
            "digest": self.digest,
            "name": self.name,
            "driver": self.driver,
            "boundary": self.boundary,
            "origin": self.origin,
            "parent": self.record.parent,
            "size": self.size,
            "created": self.created.isoformat(),
            "requires": dict(self.record.requires),
            "preload": list(self.spec.preload),
            "policy": self.record.policy,
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """A snapshot to be: what the runtime knows of it, and who writes the files into an empty directory."""

    spec: SandboxSpec
    boundary: str
    origin: str
    spent: dict[str, int]
    write: Callable[[Path], Awaitable[SnapshotRef]]


class SnapshotCatalogue:
    """The snapshots of one user, below ``snapshots/`` in the state directory."""

    def __init__(self, state: Path, store: StateStore, owner: str) -> None:
        self._place = state / "snapshots"
        self._table = SnapshotTable(store.database)
        self._owner = owner

    async def add(self, draft: Draft, name: str | None) -> Snapshot:
        """Write a snapshot down. Raises SnapshotError, NameTakenError or what the driver says; nothing is left."""
        if name is not None:
            self._check_name(name)
        place = private_dir(self._place)
        temporary = place / f"{_TEMPORARY}{self._owner}-{short_id()}"
        try:
            temporary.mkdir(mode=0o700)
            ref = await draft.write(temporary)
            if not _DIGEST.fullmatch(ref.digest):  # it becomes a name on the host
                msg = f"driver {ref.driver} gave a digest that is none"
                raise SnapshotError(msg, details={"driver": ref.driver})
            size = await anyio.to_thread.run_sync(_to_disk, temporary)
            record = SnapshotRecord(
                digest=ref.digest,
                driver=ref.driver,
                boundary=draft.boundary,
                origin=draft.origin,
                spec=draft.spec.model_dump_json(),
                policy=digest_of(draft.spec.policy.model_dump(mode="json")),
                size=size,
                created=datetime.now(UTC),
                name=name,
                parent=ref.parent,
                requires=dict(ref.requires),
                spent=draft.spent,
            )
            with anyio.CancelScope(shield=True):
                await self._settle(temporary, record)
        except OSError as error:
            raise _unwritable(error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return Snapshot(record)

    async def _settle(self, temporary: Path, record: SnapshotRecord) -> None:
        final = self._place / record.digest
        async with self._locked():
            if final.exists():
                # Never handed out in its place: the other one's sandbox may have had more rights.
                msg = f"a snapshot with the digest {record.digest[:12]} exists already"
                raise SnapshotError(msg, details={"snapshot": record.digest})
            os.rename(temporary, final)  # noqa: PTH104  # one call, quicker than a thread
            try:
                _sync(self._place)
                await self._table.insert(record)
            except BaseException:
                shutil.rmtree(final, ignore_errors=True)
                raise

    def get(self, key: str) -> Snapshot:
        """Return the snapshot of that name, digest or unique beginning of a digest (at least 6 characters).

        Raises SnapshotNotFoundError.
        """
        named = self._table.by_name(key)
        if named is not None:
            return Snapshot(named)
        found = self._table.by_prefix(key) if _PREFIX.fullmatch(key) else []
        if len(found) == 1:
            return Snapshot(found[0])
        if found:
            msg = f"{len(found)} snapshots have a digest that begins with {key}"
            raise SnapshotNotFoundError(msg, hint="give more of it", details={"snapshot": key})
        msg = f"no snapshot has the name or digest {key!r}"
        hint = "jubako snapshot list shows what there is"
        raise SnapshotNotFoundError(msg, hint=hint, details={"snapshot": key})

    def list(self) -> list[Snapshot]:
        """Return all snapshots, oldest first."""
        return [Snapshot(record) for record in self._table.all()]

    def directory(self, snapshot: Snapshot) -> Path:
        """Return where its files are. Raises SnapshotNotFoundError when it was removed meanwhile."""
        place = self._place / self.get(snapshot.digest).digest
        if not place.is_dir():
            msg = f"the files of snapshot {snapshot.digest[:12]} are gone"
            raise SnapshotNotFoundError(msg, hint="make the snapshot again", details={"snapshot": snapshot.digest})
        return place

    async def remove(self, snapshot: Snapshot) -> None:
        """Remove its record and files. Raises SnapshotError while a sandbox or another snapshot needs them."""
        digest = self.get(snapshot.digest).digest
        gone = self._place / f"{_TEMPORARY}{self._owner}-{short_id()}"
        with anyio.CancelScope(shield=True):
            async with self._locked():
                if not await self._table.delete_unneeded(digest):
                    raise self._needed(digest)
                try:
                    (self._place / digest).rename(gone)
                except FileNotFoundError:
                    return
        await anyio.to_thread.run_sync(_remove, gone)

    async def tidy(self, dead: Callable[[str], bool]) -> int:
        """Remove what crashes left: unfinished files of dead owners, and files without a record."""
        if not self._place.is_dir():
            return 0
        left = [entry for entry in sorted(self._place.iterdir()) if entry.is_dir()]
        unfinished = [entry for entry in left if entry.name.startswith(_TEMPORARY)]
        removed = [entry for entry in unfinished if dead(entry.name.removeprefix(_TEMPORARY).partition("-")[0])]
        if any(_DIGEST.fullmatch(entry.name) for entry in left):
            async with self._locked():
                known = {record.digest for record in self._table.all()}
                removed += [entry for entry in left if _DIGEST.fullmatch(entry.name) and entry.name not in known]
        for entry in removed:
            await anyio.to_thread.run_sync(_remove, entry)
        return len(removed)

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            msg = f"{name!r} is no name for a snapshot: a letter or digit, then letters, digits and . _ -"
            raise InvalidRequestError(msg, details={"name": name})
        if self._table.by_name(name) is not None:  # asked again when it is recorded
            raise name_taken(name)

    def _needed(self, digest: str) -> JubakoError:
        boxes, children = self._table.needed_by(digest)
        needers = ", ".join([*(f"sandbox {item}" for item in boxes), *(f"snapshot {item[:12]}" for item in children)])
        msg = f"snapshot {digest[:12]} is still needed by {needers or 'something'}"
        hint = "end them first"
        return SnapshotError(msg, hint=hint, details={"snapshot": digest, "sandboxes": boxes, "snapshots": children})

    @asynccontextmanager
    async def _locked(self) -> AsyncGenerator[None, None]:
        descriptor = os.open(self._place / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while not _lock(descriptor):  # noqa: ASYNC110  # the kernel tells nobody when a lock is free
                await anyio.sleep(_PAUSE)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _to_disk(directory: Path) -> int:
    """Bring everything below a directory to the disk and return its size in bytes."""
    size = 0
    for root, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)  # noqa: PTH118
            try:
                os.fsync(descriptor)
                size += os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
        _sync(root)
    return size


def _sync(directory: Path | str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(error: OSError) -> SnapshotError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    msg = f"the snapshot can't be written: {error.strerror or error}"
    hint = "make room on the disk, or remove old snapshots: jubako snapshot rm" if full else ""
    return SnapshotError(msg, hint=hint)
