"""Which sandboxes exist, so that a later process can find and remove what a dead one left."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from jubako.errors import NameTakenError, SandboxNotFoundError
from jubako.store._database import Database, as_time, failure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

__all__ = ["SandboxRecord", "StateStore"]

_COLUMNS: Final = "id, name, owner, driver, handle, state, spec, card, created, expires, labels, snapshot"


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """One sandbox as it is written down. ``spec`` is the JSON of its SandboxSpec, ``card`` a digest.

    ``snapshot`` is the digest of the snapshot whose files it needs, if it does.
    """

    id: str
    owner: str
    driver: str
    handle: str
    state: str
    spec: str
    created: datetime
    card: str = ""
    name: str | None = None
    expires: datetime | None = None
    labels: dict[str, str] = field(default_factory=dict[str, str])
    snapshot: str | None = None


class StateStore:
    """The table of live sandboxes. Made by ``open``; ``close`` is idempotent. Use one per thread."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, making or migrating it. Raises StoreError when it is damaged, newer or unreadable."""
        return cls(Database.open(path))

    async def insert(self, record: SandboxRecord) -> None:
        """Write a new record. Raises NameTakenError when a live sandbox has its name."""
        values = (
            record.id,
            record.name,
            record.owner,
            record.driver,
            record.handle,
            record.state,
            record.spec,
            record.card,
            record.created.timestamp(),
            record.expires.timestamp() if record.expires is not None else None,
            json.dumps(record.labels, sort_keys=True),
            record.snapshot,
        )
        marks = ", ".join("?" * len(values))
        try:
            await self.database.write(f"INSERT INTO sandboxes ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608  # constants
        except sqlite3.IntegrityError as error:
            if "sandboxes.name" in str(error):
                msg = f"another live sandbox is named {record.name!r}"
                raise NameTakenError(
                    msg, hint="choose another name or destroy that sandbox", details={"name": record.name or ""}
                ) from error
            raise failure(self.database.path, error) from error

    async def set_state(self, sandbox_id: str, state: str) -> None:
        """Write the state of one sandbox. Raises SandboxNotFoundError when it has no record."""
        if await self.database.write("UPDATE sandboxes SET state = ? WHERE id = ?", (state, sandbox_id)) == 0:
            raise _missing(sandbox_id)

    async def delete(self, sandbox_id: str) -> bool:
        """Remove one record; False when there was none."""
        return await self.database.write("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,)) > 0

    async def delete_owner(self, owner: str) -> int:
        """Remove all records of one owner and return how many there were."""
        return await self.database.write("DELETE FROM sandboxes WHERE owner = ?", (owner,))

    def get(self, sandbox_id: str) -> SandboxRecord:
        """Return one record. Raises SandboxNotFoundError."""
        found = self._read("WHERE id = ?", (sandbox_id,))
        if not found:
            raise _missing(sandbox_id)
        return found[0]

    def find(self, *, owner: str | None = None, name: str | None = None) -> list[SandboxRecord]:
        """Return the records of that owner and name (of all, for None), oldest first."""
        return self._read(
            "WHERE owner = coalesce(?, owner) AND name IS coalesce(?, name) ORDER BY created, id", (owner, name)
        )

    def owners(self) -> frozenset[str]:
        """Return every owner that has a record."""
        return frozenset(str(row[0]) for row in self.database.read("SELECT DISTINCT owner FROM sandboxes"))

    def close(self) -> None:
        """Close the file; idempotent."""
        self.database.close()

    def _read(self, where: str, values: Sequence[str | None]) -> list[SandboxRecord]:
        rows = self.database.read(f"SELECT {_COLUMNS} FROM sandboxes {where}", values)  # noqa: S608  # constants
        try:
            return [_record(row) for row in rows]
        except (ValueError, TypeError) as error:
            raise failure(self.database.path, error) from error


def _record(row: tuple[object, ...]) -> SandboxRecord:
    (ident, name, owner, driver, handle, state, spec, card, created, expires, labels, snapshot) = row
    return SandboxRecord(
        id=str(ident),
        name=None if name is None else str(name),
        owner=str(owner),
        driver=str(driver),
        handle=str(handle),
        state=str(state),
        spec=str(spec),
        card=str(card),
        created=as_time(created),
        expires=None if expires is None else as_time(expires),
        labels={str(key): str(value) for key, value in json.loads(str(labels)).items()},
        snapshot=None if snapshot is None else str(snapshot),
    )


def _missing(sandbox_id: str) -> SandboxNotFoundError:
    msg = f"no sandbox has the id {sandbox_id!r}"
    return SandboxNotFoundError(msg, details={"id": sandbox_id})
