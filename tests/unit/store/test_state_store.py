from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.errors import NameTakenError, SandboxNotFoundError, StoreError
from jubako.store import SandboxRecord, StateStore
from jubako.store._schema import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, 3, 4, 5, 678900, UTC)
RECORD = SandboxRecord(
    id="s1",
    owner="o1",
    driver="bwrap",
    handle="s1",
    state="pending",
    spec='{"boundary":"process"}',
    created=NOW,
    card="sha256:00",
    name="worker",
    expires=NOW + timedelta(hours=1),
    labels={"team": "a", "ünï": "ç"},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[StateStore]:
    opened = StateStore.open(path)
    yield opened
    opened.close()


def other(**changes: object) -> SandboxRecord:
    return dataclasses.replace(RECORD, **changes)  # type: ignore[arg-type]  # fields by name


async def test_record_comes_back_as_it_went_in(store: StateStore, path: Path) -> None:
    await store.insert(RECORD)
    assert store.get("s1") == RECORD
    again = StateStore.open(path)
    assert again.find() == [RECORD]
    again.close()


def test_file_is_private(store: StateStore, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


async def test_state_changes_and_deletion(store: StateStore) -> None:
    await store.insert(RECORD)
    await store.set_state("s1", "running")
    assert store.get("s1").state == "running"
    assert await store.delete("s1") is True
    assert await store.delete("s1") is False
    with pytest.raises(SandboxNotFoundError) as caught:
        store.get("s1")
    assert caught.value.details["id"] == "s1"
    with pytest.raises(SandboxNotFoundError):
        await store.set_state("s1", "running")


async def test_a_name_is_taken_while_its_sandbox_lives(store: StateStore) -> None:
    await store.insert(RECORD)
    with pytest.raises(NameTakenError, match="'worker'"):
        await store.insert(other(id="s2", owner="o2"))
    await store.insert(other(id="s3", name=None))
    await store.insert(other(id="s4", name=None))
    await store.delete("s1")
    await store.insert(other(id="s2"))
    assert [record.id for record in store.find(name="worker")] == ["s2"]


async def test_one_id_twice_is_a_store_error(store: StateStore) -> None:
    await store.insert(RECORD)
    with pytest.raises(StoreError):
        await store.insert(other(name=None))


async def test_find_by_owner_oldest_first(store: StateStore) -> None:
    for number in range(5):
        await store.insert(
            other(id=f"s{number}", name=None, owner=f"o{number % 2}", created=NOW - timedelta(seconds=number))
        )
    assert [record.id for record in store.find(owner="o0")] == ["s4", "s2", "s0"]
    assert store.owners() == {"o0", "o1"}
    assert await store.delete_owner("o0") == 3
    assert store.owners() == {"o1"}


async def test_closed_store_refuses_and_closes_again(store: StateStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        await store.insert(RECORD)


async def test_another_writer_is_waited_for(store: StateStore, path: Path) -> None:
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    done: list[float] = []

    async def insert() -> None:
        await store.insert(RECORD)
        done.append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(insert)
        await anyio.sleep(0.05)
        assert done == []
        blocker.execute("COMMIT")
    blocker.close()
    assert store.get("s1") == RECORD


def test_many_processes_open_a_new_file_at_once(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from jubako.store import StateStore;"
        "StateStore.open(Path(sys.argv[1])).close()"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    assert [process.communicate()[1] for process in processes] == [""] * 6
    assert [process.returncode for process in processes] == [0] * 6
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_damaged_file_says_what_to_do(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        StateStore.open(path)
    assert "move state.db away" in caught.value.hint
    assert caught.value.details["path"] == str(path)


def test_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    StateStore.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(StoreError, match="has schema 999"):
        StateStore.open(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (999,)
    connection.close()


def test_older_schema_is_migrated_step_by_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StateStore.open(path).close()
    later = (*STEPS, ("ALTER TABLE sandboxes ADD COLUMN rung TEXT",))
    monkeypatch.setattr("jubako.store._database.STEPS", later)
    StateStore.open(path).close()
    connection = sqlite3.connect(path)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(sandboxes)")]
    assert columns[-1] == "rung"
    assert connection.execute("PRAGMA user_version").fetchone() == (len(later),)
    connection.close()


def test_a_failing_migration_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StateStore.open(path).close()
    broken = (*STEPS, ("ALTER TABLE sandboxes ADD COLUMN rung TEXT", "SELECT * FROM nowhere"))
    monkeypatch.setattr("jubako.store._database.STEPS", broken)
    with pytest.raises(StoreError, match="nowhere"):
        StateStore.open(path)
    connection = sqlite3.connect(path)
    assert "rung" not in [row[1] for row in connection.execute("PRAGMA table_info(sandboxes)")]
    connection.close()


def test_unusable_place_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be opened"):
        StateStore.open(tmp_path / "absent" / "state.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "target.db")
    with pytest.raises(StoreError, match="can't be opened"):
        StateStore.open(tmp_path / "link.db")


def test_damage_after_opening_is_told(store: StateStore, path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE sandboxes")
    connection.close()
    with pytest.raises(StoreError, match="no such table"):
        store.find()
    with pytest.raises(StoreError, match="no such table"):
        store.owners()
