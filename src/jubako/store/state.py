"""Which sandboxes exist, so that a later process can find and remove what a dead one left.

Each call is one statement of some tens of microseconds and runs in the caller's thread: a hop to a
worker thread would cost more. SQLite itself never waits for another process's write here; the
asynchronous calls wait outside it, so that an event loop goes on.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import anyio

from jubako.errors import NameTakenError, SandboxNotFoundError, StoreError
from jubako.store._schema import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["SandboxRecord", "StateStore"]

_COLUMNS: Final = "id, name, owner, driver, handle, state, spec, card, created, expires, labels"
_PATIENCE: Final = 10.0
_PAUSE: Final = 0.005
_OPEN_ATTEMPTS: Final = 400


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """One sandbox as it is written down. ``spec`` is the JSON of its SandboxSpec, ``card`` a digest."""

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


class StateStore:
    """The table of live sandboxes in one SQLite file, shared by all processes of a user.

    Made by ``open``; ``close`` is idempotent. Use one per thread.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db: sqlite3.Connection | None = connection
        self._path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, making or migrating it. Raises StoreError when it is damaged, newer or unreadable."""
        try:
            # The file names sandboxes and their policies: nobody else's business.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        except (OSError, sqlite3.Error) as error:
            raise _failure(path, error) from error
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(connection, path)

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
        )
        marks = ", ".join("?" * len(values))
        try:
            await self._write(f"INSERT INTO sandboxes ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608  # constants
        except sqlite3.IntegrityError as error:
            if "sandboxes.name" in str(error):
                msg = f"another live sandbox is named {record.name!r}"
                raise NameTakenError(
                    msg, hint="choose another name or destroy that sandbox", details={"name": record.name or ""}
                ) from error
            raise _failure(self._path, error) from error

    async def set_state(self, sandbox_id: str, state: str) -> None:
        """Write the state of one sandbox. Raises SandboxNotFoundError when it has no record."""
        if await self._write("UPDATE sandboxes SET state = ? WHERE id = ?", (state, sandbox_id)) == 0:
            raise _missing(sandbox_id)

    async def delete(self, sandbox_id: str) -> bool:
        """Remove one record; False when there was none."""
        return await self._write("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,)) > 0

    async def delete_owner(self, owner: str) -> int:
        """Remove all records of one owner and return how many there were."""
        return await self._write("DELETE FROM sandboxes WHERE owner = ?", (owner,))

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
        try:
            rows = self._open_db().execute("SELECT DISTINCT owner FROM sandboxes").fetchall()
        except sqlite3.Error as error:
            raise _failure(self._path, error) from error
        return frozenset(str(row[0]) for row in rows)

    def close(self) -> None:
        """Close the file; idempotent."""
        connection, self._db = self._db, None
        if connection is not None:
            connection.close()

    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            msg = f"the state record {self._path} is closed"
            raise StoreError(msg)
        return self._db

    def _read(self, where: str, values: Sequence[str | None]) -> list[SandboxRecord]:
        try:
            rows = self._open_db().execute(f"SELECT {_COLUMNS} FROM sandboxes {where}", values).fetchall()  # noqa: S608  # constants
            return [_record(row) for row in rows]
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise _failure(self._path, error) from error

    async def _write(self, statement: str, values: Sequence[str | float | None]) -> int:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._open_db().execute(statement, values).rowcount
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                if not _busy(error) or time.monotonic() > deadline:
                    raise _failure(self._path, error) from error
            await anyio.sleep(_PAUSE)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set the connection up and migrate; other processes may be doing the same at this moment."""
    for attempt in range(_OPEN_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            _migrate(connection, path)
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not _busy(error) or attempt == _OPEN_ATTEMPTS - 1:
                raise _failure(path, error) from error
            time.sleep(_PAUSE)
        else:
            return


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    def version() -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    if version() == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    found = version()
    if found > len(STEPS):
        connection.execute("ROLLBACK")
        msg = f"the state record {path} has schema {found}; this jubako knows up to {len(STEPS)}"
        raise StoreError(msg, hint="use the newer jubako, or move the file away", details={"path": str(path)})
    for step in STEPS[found:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(STEPS)}")
    connection.execute("COMMIT")


def _record(row: tuple[object, ...]) -> SandboxRecord:
    (ident, name, owner, driver, handle, state, spec, card, created, expires, labels) = row
    return SandboxRecord(
        id=str(ident),
        name=None if name is None else str(name),
        owner=str(owner),
        driver=str(driver),
        handle=str(handle),
        state=str(state),
        spec=str(spec),
        card=str(card),
        created=_time(created),
        expires=None if expires is None else _time(expires),
        labels={str(key): str(value) for key, value in json.loads(str(labels)).items()},
    )


def _time(value: object) -> datetime:
    if not isinstance(value, (int, float)):
        msg = f"{value!r} is not a time"
        raise TypeError(msg)
    return datetime.fromtimestamp(value, UTC)


def _busy(error: sqlite3.Error) -> bool:
    # The low byte is the primary code: extended ones such as BUSY_SNAPSHOT or BUSY_RECOVERY are also "later".
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _missing(sandbox_id: str) -> SandboxNotFoundError:
    msg = f"no sandbox has the id {sandbox_id!r}"
    return SandboxNotFoundError(msg, details={"id": sandbox_id})


def _failure(path: Path, error: Exception) -> StoreError:
    details = {"path": str(path)}
    if isinstance(error, OSError):
        msg = f"the state record {path} can't be opened: {error.strerror}"
        return StoreError(msg, hint="the state directory must be writable by this user", details=details)
    hint: Callable[[str], str] = (
        "move {} away (with its -wal and -shm files); only the list of live sandboxes is lost".format
    )
    msg = f"the state record {path} can't be used: {error}"
    return StoreError(msg, hint=hint(path.name), details=details)
