"""The tables, as steps from each schema version to the next. A released step never changes."""

from __future__ import annotations

from typing import Final

__all__ = ["STEPS"]

STEPS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE sandboxes (
            id TEXT PRIMARY KEY,
            name TEXT,
            owner TEXT NOT NULL,
            driver TEXT NOT NULL,
            handle TEXT NOT NULL,
            state TEXT NOT NULL,
            spec TEXT NOT NULL,
            card TEXT NOT NULL,
            created REAL NOT NULL,
            expires REAL,
            labels TEXT NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        # A record is deleted with its sandbox, so a name is free again as soon as its sandbox is gone.
        "CREATE UNIQUE INDEX sandboxes_name ON sandboxes (name) WHERE name IS NOT NULL",
        "CREATE INDEX sandboxes_owner ON sandboxes (owner)",
    ),
    (
        # The snapshot whose files a sandbox needs as long as it lives.
        "ALTER TABLE sandboxes ADD COLUMN snapshot TEXT",
        """
        CREATE TABLE snapshots (
            digest TEXT PRIMARY KEY,
            name TEXT,
            driver TEXT NOT NULL,
            boundary TEXT NOT NULL,
            parent TEXT,
            origin TEXT NOT NULL,
            requires TEXT NOT NULL,
            spec TEXT NOT NULL,
            policy TEXT NOT NULL,
            spent TEXT NOT NULL,
            size INTEGER NOT NULL,
            created REAL NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE UNIQUE INDEX snapshots_name ON snapshots (name) WHERE name IS NOT NULL",
    ),
)
"""Step ``n`` leads from ``PRAGMA user_version`` n to n + 1."""
