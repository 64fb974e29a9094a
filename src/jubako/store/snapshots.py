"""Which snapshots exist. Their files lie beside the database; the record says what they are."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from jubako.errors import NameTakenError
from jubako.store._database import as_time, failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from jubako.store._database import Database

__all__ = ["SnapshotRecord", "SnapshotTable", "name_taken"]

_COLUMNS: Final = "digest, name, driver, boundary, parent, origin, requires, spec, policy, spent, size, created"


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """One snapshot as it is written down.

    Attributes:
        digest: SHA-256, in hex, over its files.
        parent: The snapshot whose files it needs too, if it does.
        origin: The sandbox that it was made of.
        requires: What must be the same where it is restored.
        spec: The JSON of the sandbox's whole SandboxSpec.
        policy: Digest of the policy in it.
        spent: Calls of host functions that its children count as made.
        size: Bytes of its files.
    """

    digest: str
    driver: str
    boundary: str
    origin: str
    spec: str
    policy: str
    size: int
    created: datetime
    name: str | None = None
    parent: str | None = None
    requires: Mapping[str, str] = field(default_factory=dict[str, str])
    spent: Mapping[str, int] = field(default_factory=dict[str, int])


class SnapshotTable:
    """The table of snapshots in the state database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, record: SnapshotRecord) -> None:
        """Write a new record. Raises NameTakenError when another snapshot has its name."""
        values = (
            record.digest,
            record.name,
            record.driver,
            record.boundary,
            record.parent,
            record.origin,
            json.dumps(dict(record.requires), sort_keys=True),
            record.spec,
            record.policy,
            json.dumps(dict(record.spent), sort_keys=True),
            record.size,
            record.created.timestamp(),
        )
        marks = ", ".join("?" * len(values))
        try:
            await self._database.write(f"INSERT INTO snapshots ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608  # constants
        except sqlite3.IntegrityError as error:
            if "snapshots.name" in str(error):
                raise name_taken(record.name or "") from error
            raise failure(self._database.path, error) from error

    async def delete_unneeded(self, digest: str) -> bool:
        """Remove one record unless a sandbox or another snapshot needs its files; False when it stays."""
        statement = (
            "DELETE FROM snapshots WHERE digest = ?1"
            " AND NOT EXISTS (SELECT 1 FROM sandboxes WHERE snapshot = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM snapshots WHERE parent = ?1)"
        )
        return await self._database.write(statement, (digest,)) > 0

    def needed_by(self, digest: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the ids of the sandboxes and the digests of the snapshots that need its files."""
        boxes = self._database.read("SELECT id FROM sandboxes WHERE snapshot = ? ORDER BY id", (digest,))
        children = self._database.read("SELECT digest FROM snapshots WHERE parent = ? ORDER BY digest", (digest,))
        return tuple(str(row[0]) for row in boxes), tuple(str(row[0]) for row in children)

    def by_name(self, name: str) -> SnapshotRecord | None:
        """Return the snapshot of that name, or None."""
        found = self._read("WHERE name = ?", (name,))
        return found[0] if found else None

    def by_prefix(self, prefix: str, limit: int = 8) -> list[SnapshotRecord]:
        """Return the snapshots whose digest begins so, at most ``limit``; the prefix is plain hexadecimal."""
        return self._read("WHERE digest GLOB ? ORDER BY digest LIMIT ?", (f"{prefix}*", limit))

    def all(self) -> list[SnapshotRecord]:
        """Return all snapshots, oldest first."""
        return self._read("ORDER BY created, digest", ())

    def _read(self, where: str, values: Sequence[str | int]) -> list[SnapshotRecord]:
        rows = self._database.read(f"SELECT {_COLUMNS} FROM snapshots {where}", values)  # noqa: S608  # constants
        try:
            return [_record(row) for row in rows]
        except (ValueError, TypeError) as error:
            raise failure(self._database.path, error) from error


def name_taken(name: str) -> NameTakenError:
    """Return the error for a name that another snapshot has."""
    msg = f"another snapshot is named {name!r}"
    return NameTakenError(msg, hint="choose another name or remove that snapshot", details={"name": name})


def _record(row: tuple[object, ...]) -> SnapshotRecord:
    (digest, name, driver, boundary, parent, origin, requires, spec, policy, spent, size, created) = row
    return SnapshotRecord(
        digest=str(digest),
        name=None if name is None else str(name),
        driver=str(driver),
        boundary=str(boundary),
        parent=None if parent is None else str(parent),
        origin=str(origin),
        requires={str(key): str(value) for key, value in json.loads(str(requires)).items()},
        spec=str(spec),
        policy=str(policy),
        spent={str(key): int(value) for key, value in json.loads(str(spent)).items()},
        size=cast("int", size),
        created=as_time(created),
    )
