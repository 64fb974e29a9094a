"""One SQLite file, shared by all processes of a user: opening, migrating, waiting for other writers.

Each call is one statement of some tens of microseconds and runs in the caller's thread: a hop to a
worker thread would cost more. SQLite itself never waits for another process's write here; the
asynchronous calls wait outside it, so that an event loop goes on.
"""

from __future__ import annotations

import os
import sqlite3
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import anyio

from jubako.errors import StoreError
from jubako.store._schema import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["Database", "as_time", "failure"]

Value = str | int | float | None

_PATIENCE: Final = 10.0
_PAUSE: Final = 0.005
_OPEN_ATTEMPTS: Final = 400


class Database:
    """The open file. Made by ``open``; ``close`` is idempotent. Use one per thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db: sqlite3.Connection | None = connection
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, making or migrating it. Raises StoreError when it is damaged, newer or unreadable."""
        try:
            # The file names sandboxes and their policies: nobody else's business.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        except (OSError, sqlite3.Error) as error:
            raise failure(path, error) from error
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(connection, path)

    def read(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[object, ...]]:
        """Return the rows. Raises StoreError."""
        try:
            return self._open().execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise failure(self.path, error) from error

    async def write(self, statement: str, values: Sequence[Value]) -> int:
        """Run one statement, waiting for other writers, and return the rows that it changed.

        Raises StoreError, and sqlite3.IntegrityError where a constraint forbids it.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._open().execute(statement, values).rowcount
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                if not _busy(error) or time.monotonic() > deadline:
                    raise failure(self.path, error) from error
            await anyio.sleep(_PAUSE)

    def close(self) -> None:
        """Close the file; idempotent."""
        connection, self._db = self._db, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            msg = f"the state record {self.path} is closed"
            raise StoreError(msg)
        return self._db


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
                raise failure(path, error) from error
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


def as_time(value: object) -> datetime:
    """Return the time that a column holds. Raises TypeError when it is none."""
    if not isinstance(value, (int, float)):
        msg = f"{value!r} is not a time"
        raise TypeError(msg)
    return datetime.fromtimestamp(value, UTC)


def _busy(error: sqlite3.Error) -> bool:
    # The low byte is the primary code: extended ones such as BUSY_SNAPSHOT or BUSY_RECOVERY are also "later".
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def failure(path: Path, error: Exception) -> StoreError:
    """Return what went wrong with the file, as one of our errors."""
    details = {"path": str(path)}
    if isinstance(error, OSError):
        msg = f"the state record {path} can't be opened: {error.strerror}"
        return StoreError(msg, hint="the state directory must be writable by this user", details=details)
    hint: Callable[[str], str] = (
        "move {} away (with its -wal and -shm files); only the list of live sandboxes is lost".format
    )
    msg = f"the state record {path} can't be used: {error}"
    return StoreError(msg, hint=hint(path.name), details=details)
