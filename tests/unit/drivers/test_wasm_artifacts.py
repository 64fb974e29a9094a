"""Precompiled programs: what is built is kept, and what is not provably ours is never used."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.drivers.wasmtime.artifacts import ArtifactCache, programs, python_program, supply, user_program
from jubako.drivers.wasmtime.artifacts import cache as cache_module
from jubako.errors import InvalidRequestError, LaunchError, MissingExtraError, StoreError
from jubako.linux.landlock import landlock_abi

if TYPE_CHECKING:
    from collections.abc import Callable


wasmtime = pytest.importorskip("wasmtime", reason="the extra jubako[wasm] is not installed")

KEY = "a" * 64
DIGEST = "b" * 64
CODE = b"code" * 1000

COMMAND = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\\10\\00\\00\\00\\06\\00\\00\\00hello\\n")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))
    (call $exit (i32.const 3))))"""


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "wasm")


async def install(cache: ArtifactCache, key: str = KEY, data: bytes = CODE) -> Path:
    async with cache.workplace(key) as place:
        built = place / "built"
        built.write_bytes(data)
        entry = await cache.install(key, built, kind="core-command", digest=DIGEST)
    return entry.path


@pytest.mark.anyio
async def test_what_was_installed_is_found(cache: ArtifactCache) -> None:
    assert await cache.find(KEY) is None
    path = await install(cache)
    for same in (cache, ArtifactCache(path.parent)):
        entry = await same.find(KEY)
        assert entry is not None
        assert (entry.path, entry.kind, entry.digest) == (path, "core-command", DIGEST)
    assert path.read_bytes() == CODE
    # Sandboxes of other users read it, through a directory that only the maker enters.
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(item.name for item in path.parent.iterdir()) == ["aa.lock", f"{KEY}.cwasm", f"{KEY}.json"]


def tampered(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, len(CODE) - 1)


def grown(path: Path) -> None:
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"x")


def writable_by_others(path: Path) -> None:
    path.chmod(0o664)


def a_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def a_second_name(path: Path) -> None:
    os.link(path, path.with_suffix(".second"))


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def missing(path: Path) -> None:
    path.unlink()


def without_a_record(path: Path) -> None:
    path.with_suffix(".json").unlink()


def changed_record(**fields: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        record = path.with_suffix(".json")
        record.write_text(json.dumps({**json.loads(record.read_text()), **fields}))

    return change


def no_record(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.with_suffix(".json").write_text(text)

    return change


def a_linked_record(path: Path) -> None:
    a_link(path.with_suffix(".json"))


def somebody_elses(path: Path) -> None:
    os.chown(path, 65534, 65534)


ATTACKS = [
    tampered,
    truncated,
    grown,
    writable_by_others,
    a_link,
    a_second_name,
    a_fifo,
    missing,
    without_a_record,
    a_linked_record,
    changed_record(sha256="0" * 64),
    changed_record(size=len(CODE) + 1),
    changed_record(kind="native"),
    changed_record(digest="../../etc"),
    changed_record(format=0),
    no_record("{}"),
    no_record("[1]"),
    no_record("{"),
    no_record(" " * 5000),
    pytest.param(somebody_elses, marks=pytest.mark.root),
]


@pytest.mark.anyio
@pytest.mark.parametrize("seen_before", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_is_not_the_file_that_was_built_is_never_used(
    cache: ArtifactCache, attack: Callable[[Path], None], *, seen_before: bool
) -> None:
    path = await install(cache)
    other = cache if seen_before else ArtifactCache(path.parent)
    assert await cache.find(KEY) is not None
    attack(path)
    assert await other.find(KEY) is None
    # And it is built again over it.
    await install(other)
    assert (await other.find(KEY)) is not None
    assert path.read_bytes() == CODE


@pytest.mark.anyio
async def test_only_changed_files_are_read_again(cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await install(cache)

    def refuse(_: int) -> str:
        raise AssertionError

    monkeypatch.setattr(cache_module, "_sha256", refuse)
    assert await cache.find(KEY) is not None
    os.utime(path)
    with pytest.raises(AssertionError):
        await cache.find(KEY)


@pytest.mark.anyio
async def test_directories_that_others_can_change_are_refused(tmp_path: Path) -> None:
    open_place = tmp_path / "open"
    open_place.mkdir()
    open_place.chmod(0o777)
    with pytest.raises(StoreError, match="can be written by everybody"):
        await ArtifactCache(open_place / "wasm").find(KEY)
    open_place.chmod(0o1777)
    assert await ArtifactCache(open_place / "wasm").find(KEY) is None
    (tmp_path / "link").symlink_to(open_place / "wasm")
    with pytest.raises(StoreError, match="can't use"):
        await ArtifactCache(tmp_path / "link").find(KEY)


@pytest.mark.anyio
async def test_keys_are_no_paths(cache: ArtifactCache) -> None:
    for key in ("../" + KEY, KEY.upper(), "a", KEY + "\n"):
        with pytest.raises(ValueError, match="not a key"):
            await cache.find(key)


@pytest.mark.anyio
async def test_one_builds_and_the_others_wait(cache: ArtifactCache) -> None:
    made: list[str] = []

    async def build(name: str) -> None:
        mine = ArtifactCache(cache.directory())
        async with mine.workplace(KEY) as place:
            if await mine.find(KEY) is None:
                made.append(name)
                await anyio.sleep(0.05)
                (place / "built").write_bytes(CODE)
                await mine.install(KEY, place / "built", kind="core-command", digest=DIGEST)

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(build, name)
    assert len(made) == 1


@pytest.mark.anyio
async def test_what_killed_builders_left_is_removed(cache: ArtifactCache) -> None:
    left = cache.directory() / f".build-{KEY[:2]}-old"
    left.mkdir()
    (left / "huge").write_bytes(b"x")
    with pytest.raises(ZeroDivisionError):
        async with cache.workplace(KEY):
            raise ZeroDivisionError
    assert [item.name for item in cache.directory().iterdir()] == ["aa.lock"]


@pytest.mark.anyio
async def test_the_oldest_leave_when_it_is_full(cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_MAX_BYTES", 2 * len(CODE))
    keys = ["1" * 64, "2" * 64, "3" * 64]
    for age, key in enumerate(keys):
        path = await install(cache, key)
        os.utime(path, (1000 + age, 1000 + age))
    assert [await cache.find(key) is not None for key in keys] == [False, True, True]


@pytest.mark.anyio
async def test_a_cache_that_can_not_be_written_says_so(cache: ArtifactCache) -> None:
    path = cache.directory() / f"{KEY}.cwasm"
    path.mkdir()
    (path / "in-the-way").touch()
    with pytest.raises(StoreError, match="can't store a compiled program"):
        await install(cache)


def test_code_is_for_one_processor_and_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {supply.compilation_key("x"), supply.compilation_key("y")}
    monkeypatch.setattr(supply, "_processor", lambda: ("flags: other",))
    keys.add(supply.compilation_key("x"))
    monkeypatch.setattr(supply, "SETTINGS", (("consume_fuel", 1),))
    keys.add(supply.compilation_key("x"))
    monkeypatch.setattr(supply, "require", lambda *_: ("999.0",))
    keys.add(supply.compilation_key("x"))
    assert len(keys) == 5


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match="needs the package wasm-of-the-future") as caught:
        supply.require("wasm-of-the-future")
    assert "jubako[wasm]" in caught.value.hint
    monkeypatch.setattr(supply, "_ENGINE_FILE", "qjs-wasi-reactor/missing.wasm")
    with pytest.raises(MissingExtraError, match="can't be read"):
        supply.javascript_engine()
    monkeypatch.setattr(supply, "_ENGINE_FILE", str(tmp_path / "other.wasm"))
    (tmp_path / "other.wasm").write_bytes(b"other")
    with pytest.raises(MissingExtraError, match="another JavaScript engine"):
        supply.javascript_engine()


@pytest.mark.anyio
async def test_a_users_command_is_compiled_once(cache: ArtifactCache) -> None:
    said: list[str] = []
    data = bytes(wasmtime.wat2wasm(COMMAND))
    first = await user_program(data, cache, progress=said.append)
    again = await user_program(data, ArtifactCache(cache.directory()), progress=said.append)
    assert first == again
    assert first.kind == "core-command"
    assert first.digest == hashlib.sha256(data).hexdigest()
    assert first.name == first.digest[:12]
    assert said == [f"compiling a WebAssembly program of {len(data)} bytes"]


COMPONENT = """(component
  (core module $m (func (export "run") (result i32) i32.const 0))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))"""

REFUSED = [
    (b"", "not a WebAssembly module or component"),
    (b"#!/bin/sh\n", "not a WebAssembly module or component"),
    (b"\0asm\1\0\0\0\xff", "failed to parse|unexpected end"),
    ("(module)", "exports no function _start"),
    ('(module (memory (export "_start") 1))', "exports no function _start"),
    ('(module (func (export "_start") (param i32)))', "exports no function _start"),
    ('(module (import "env" "x" (func)) (func (export "_start")))', "imports env.x;"),
    ('(module (import "engine" "x" (func)) (func (export "_start")))', "imports engine.x;"),
    ('(module (import "wasi_snapshot_preview1" "fork" (func)) (func (export "_start")))', "preview1.fork;"),
    ('(module (import "jubako" "m" (memory 1)) (func (export "_start")))', "is not a function"),
    ("(component)", "does not export wasi:cli/run"),
    ('(component (import "wasi:http/types@0.2.0" (instance)))', "imports wasi:http/types@0.2.0;"),
    ('(module (memory i64 1) (func (export "_start")))', "memory64 must be enabled|failed to parse"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("source", "text"), REFUSED)
async def test_what_can_not_run_is_refused_before_it_is_run(
    cache: ArtifactCache, source: str | bytes, text: str
) -> None:
    data = source if isinstance(source, bytes) else bytes(wasmtime.wat2wasm(source))
    with pytest.raises(InvalidRequestError, match=text) as caught:
        await user_program(data, cache)
    assert caught.value.hint
    assert not list(cache.directory().glob("*.cwasm"))
    assert not list(cache.directory().glob(".build*"))


@pytest.mark.anyio
async def test_components_and_host_functions_are_accepted(cache: ArtifactCache) -> None:
    component = await user_program(bytes(wasmtime.wat2wasm(COMPONENT)), cache)
    assert component.kind == "component-command"
    tools = '(module (import "jubako" "call" (func (param i32))) (func (export "_start")))'
    assert (await user_program(bytes(wasmtime.wat2wasm(tools)), cache)).kind == "core-command"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_compiler_is_bounded(cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match="at most"):
        await user_program(bytes(programs.MAX_USER_MODULE + 1), cache)
    bulky = "(func (result i64) i64.const 7 " + "i64.const 9 i64.mul i64.const 3 i64.xor " * 60_000 + ")"
    data = bytes(wasmtime.wat2wasm('(module (func (export "_start"))' + bulky * 6 + ")"))
    for limits, text in (
        (
            programs._Limits(seconds=60, cpu=60, memory=100 << 20, file=1 << 30, own=False),
            "more than 100 MiB of memory",
        ),
        (
            programs._Limits(seconds=60, cpu=1, memory=0, file=1 << 30, own=False),
            "more than 1 seconds of processor time",
        ),
        (programs._Limits(seconds=0, cpu=60, memory=0, file=1 << 30, own=False), "more than 0 seconds"),
        (programs._Limits(seconds=60, cpu=60, memory=0, file=1 << 12, own=False), "File too large"),
    ):
        monkeypatch.setattr(programs, "_FOREIGN", limits)
        # The last one gets through the compiler, and meets its limit with the file.
        with pytest.raises(InvalidRequestError, match=text):
            await user_program(bytes(wasmtime.wat2wasm(COMMAND)) if limits.file == 1 << 12 else data, cache)
    assert not list(cache.directory().glob("*.cwasm"))


@pytest.mark.skipif(not landlock_abi(), reason="the kernel has no Landlock")
def test_the_compiler_sees_its_own_directory_only(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "other").write_text("secret")
    source = f"""
import os, socket, sys
sys.path.insert(0, {str(programs._WORKSHOP.parent)!r})
import workshop
print(open({str(tmp_path / "other")!r}).read())
workshop.bound({{"memory": 1 << 30}})
workshop.confine({str(tmp_path / "own")!r})
print(open({str(tmp_path / "own/file")!r}, "w").write("ok"))
for path in ({str(tmp_path / "other")!r}, "/etc/passwd"):
    try:
        open(path)
    except PermissionError:
        print("refused")
print([name for _, name in socket.if_nameindex()])
"""
    # Without the environment, by which the tracer would follow and want to write its data.
    done = subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, text=True, check=False, env={})
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:4] == ["secret", "2", "refused", "refused"]
    if os.geteuid() == 0:
        assert lines[4] == "['lo']"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_build_that_fails_leaves_nothing(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("componentize_py", reason="the extra jubako[wasm] is not installed")
    broken = tmp_path / "guest"
    shutil.copytree(supply.GUEST, broken)
    (broken / "world.wit").write_text("broken on purpose")
    monkeypatch.setattr(supply, "GUEST", broken)
    monkeypatch.setattr(programs, "GUEST", broken)
    with pytest.raises(LaunchError, match="broken on purpose"):
        await python_program(cache)
    assert [item.name for item in cache.directory().iterdir() if item.suffix != ".lock"] == []


def test_the_page_names_every_module_that_is_missing() -> None:
    page = (Path(__file__).parents[3] / "docs" / "wasm.md").read_text(encoding="utf-8")
    source = (supply.GUEST / "jubako_library.py").read_text(encoding="utf-8")
    text = source[source.index("MISSING = ") : source.index('"""Names that programs may expect')]
    groups = [
        node.func.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    names = {name for group in groups if isinstance(group, ast.Constant) for name in str(group.value).split()}
    assert len(names) > 35
    assert not [name for name in sorted(names) if f"`{name}`" not in page]
