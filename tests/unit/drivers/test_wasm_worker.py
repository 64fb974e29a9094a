"""Hostile and broken modules in the worker: each ends by itself, with a status that says why."""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jubako.drivers.wasmtime.engine import SETTINGS
from jubako.drivers.wasmtime.probe import library_path

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, list[str], str, bytes]]

wasmtime = pytest.importorskip("wasmtime", reason="the extra jubako[wasm] is not installed")

_HOME = Path(__file__).parents[3] / "src" / "jubako" / "drivers" / "wasmtime"
_MEMORY = 64 * 1024 * 1024
_SIGNATURES = {
    "clock_time_get": "(param i32 i64 i32) (result i32)",
    "fd_write": "(param i32 i32 i32 i32) (result i32)",
    "path_open": "(param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)",
    "poll_oneoff": "(param i32 i32 i32 i32) (result i32)",
    "proc_exit": "(param i32)",
    "random_get": "(param i32 i32) (result i32)",
    "sock_accept": "(param i32 i32 i32) (result i32)",
}


def module(body: str, *imports: str, memory: int = 1, more: str = "") -> bytes:
    lines = [f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {_SIGNATURES[name]}))' for name in imports]
    text = f'(module {" ".join(lines)} (memory (export "memory") {memory}) {more} (func (export "_start") {body}))'
    return bytes(wasmtime.wat2wasm(text))


def opens(path: str) -> bytes:
    """A program that exits with the errno of opening ``path``, links followed."""
    body = (
        f"(call $proc_exit (call $path_open (i32.const 3) (i32.const 1) (i32.const 0) (i32.const {len(path)})"
        " (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 200)))"
    )
    return module(body, "path_open", "proc_exit", more=f'(data (i32.const 0) "{path}")')


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return how a module ended: code, limits, text, output."""
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "secret").write_text("secret")

    def run_it(
        data: bytes, *more: str, name: str = "x.wasm", argv: str = "x.wasm"
    ) -> tuple[int, list[str], str, bytes]:
        (work / name).write_bytes(data)
        words = [f"library={library_path()}", f"preopen=rw:{work}", f"memory={_MEMORY}", "table_elements=100000"]
        words += ["tables=8", "instances=8", "memories=4", "seconds=0.5", "module_bytes=1000000", *more]
        words += [f"engine={name}:{value}" for name, value in SETTINGS]
        done = subprocess.run(
            [
                sys.executable,
                "-I",
                "-S",
                Path(__file__).parent / "wasm_worker.py",
                _HOME,
                json.dumps(words),
                work,
                argv,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=30,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        )
        assert done.returncode == 0, done.stderr
        code, limits, text = json.loads(done.stderr)
        return code, limits, text, done.stdout

    return run_it


_LOOP = module("(loop (br 0))")
_CASES: dict[str, tuple[bytes, tuple[int, list[str], str]]] = {
    "exit code": (module("(call $proc_exit (i32.const 3))", "proc_exit"), (3, [], "")),
    "large exit code": (module("(call $proc_exit (i32.const 200))", "proc_exit"), (200, [], "")),
    "endless loop": (_LOOP, (134, ["time.exec"], "time limit reached")),
    "deep recursion": (module("(call $f)", more="(func $f (call $f))"), (134, ["resource.memory"], "stack limit")),
    "abort": (module("unreachable"), (134, [], "unreachable")),
    "memory by and by": (
        module(
            "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (call $proc_exit (i32.const 5))",
            "proc_exit",
        ),
        (5, ["resource.memory"], ""),
    ),
    "memory from the start": (module("", memory=60000), (134, ["resource.memory"], "memory minimum size")),
    "a refusal that is handled": (
        module("(drop (memory.grow (i32.const 60000))) (call $proc_exit (i32.const 0))", "proc_exit"),
        (0, [], ""),
    ),
    "table from the start": (module("", more="(table 900000 funcref)"), (134, ["resource.memory"], "table minimum")),
    "table growth": (
        module(
            "(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))"
            "(call $proc_exit (i32.const 6))",
            "proc_exit",
            more="(table $t 1 funcref)",
        ),
        (6, [], ""),
    ),
    "many tables": (module("", more="(table 1 funcref)" * 9), (134, ["resource.memory"], "table count too high")),
    "above the directory": (opens("../secret"), (63, [], "")),
    "an absolute path": (opens("/etc/passwd"), (63, [], "")),
    "a link out": (opens("link"), (63, [], "")),
    "descriptor flood": (
        module(
            "(loop (br_if 0 (i32.eqz (call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1)"
            " (i32.const 1) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 100)))))"
            "(call $proc_exit (i32.const 7))",
            "path_open",
            "proc_exit",
            more='(data (i32.const 0) "f")',
        ),
        (7, ["resource.open-files"], ""),
    ),
    "no socket": (
        module(
            "(call $proc_exit (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 0)))",
            "sock_accept",
            "proc_exit",
        ),
        (57, [], ""),
    ),
    "unknown import": (
        bytes(wasmtime.wat2wasm('(module (import "env" "system" (func (param i32))) (func (export "_start")))')),
        (126, [], "unknown import"),
    ),
    "nothing to start": (bytes(wasmtime.wat2wasm("(module)")), (126, [], "exports no _start")),
    "start is a memory": (
        bytes(wasmtime.wat2wasm('(module (memory (export "_start") 1))')),
        (126, [], "not a function"),
    ),
    "shared memory": (
        bytes(wasmtime.wat2wasm('(module (memory 1 1 shared) (func (export "_start")))')),
        (126, [], "threads must be enabled"),
    ),
    "too large": (bytes(wasmtime.wat2wasm("(module)")) + bytes(1000000), (126, [], "limit for a module")),
    "malformed": (b"\0asm\x01\0\0\0" + b"\xff" * 40, (126, [], "failed to parse")),
    "no module": (b"#!/bin/sh\necho no\n", (126, [], "not a WebAssembly module")),
    "native code": (b"\x7fELF" + bytes(100), (126, [], "not a WebAssembly module")),
    "tools that are not granted": (
        bytes(
            wasmtime.wat2wasm(
                '(module (import "jubako" "call" (func $c (param i32 i32 i32 i32) (result i32)))'
                f'(import "wasi_snapshot_preview1" "proc_exit" (func $exit {_SIGNATURES["proc_exit"]}))'
                '(memory (export "memory") 1) (func (export "_start")'
                "(call $exit (i32.lt_s"
                " (call $c (i32.const 0) (i32.const 3) (i32.const 8) (i32.const 2)) (i32.const 0)))))"
            )
        ),
        (1, [], ""),
    ),
    "an address outside of its memory": (
        bytes(
            wasmtime.wat2wasm(
                '(module (import "jubako" "call" (func $c (param i32 i32 i32 i32) (result i32)))'
                '(memory (export "memory") 1) (func (export "_start")'
                "(drop (call $c (i32.const 65535) (i32.const 3) (i32.const -1) (i32.const 2)))))"
            )
        ),
        (134, [], "outside of the module's memory"),
    ),
    "a call without memory": (
        bytes(
            wasmtime.wat2wasm(
                '(module (import "jubako" "call" (func $c (param i32 i32 i32 i32) (result i32)))'
                '(func (export "_start") (drop (call $c (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 2)))))'
            )
        ),
        (134, [], "exports no memory"),
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_modules_end_with_the_reason(run: Run, tmp_path: Path, case: str) -> None:
    data, (code, limits, text) = _CASES[case]
    (tmp_path / "work" / "f").write_text("x")
    (tmp_path / "work" / "link").symlink_to(tmp_path / "secret")
    seen = run(data)
    assert seen[:2] == (code, limits), seen
    assert text in seen[2]
    assert "\n" not in seen[2]


def test_a_module_writes_and_its_output_is_there(run: Run) -> None:
    body = (
        "(i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const 3))"
        "(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))"
    )
    seen = run(module(body, "fd_write", more='(data (i32.const 8) "hi\\n")'))
    assert seen == (0, [], "", b"hi\n")


@pytest.mark.parametrize("argv", ["missing.wasm", "../secret.wasm", "/etc/passwd.wasm", "sh", "/bin/sh", "./x"])
def test_what_is_no_program_is_not_found(run: Run, argv: str) -> None:
    code, limits, text, output = run(_LOOP, argv=argv)
    assert (code, limits, output) == (127, [], b"")
    assert argv in text


def test_fixed_clock_and_seed_repeat(run: Run) -> None:
    body = (
        "(drop (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 104)))"
        "(drop (call $random_get (i32.const 112) (i32.const 16)))"
        "(i32.store (i32.const 0) (i32.const 104)) (i32.store (i32.const 4) (i32.const 24))"
        "(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))"
    )
    data = module(body, "clock_time_get", "random_get", "fd_write")
    moment = 1767225600 * 10**9
    first, second = (run(data, f"clock={moment}", "random=7") for _ in range(2))
    assert first == second
    assert int.from_bytes(first[3][:8], "little") == moment
    assert run(data, f"clock={moment}", "random=8")[3][8:] != first[3][8:]
    free, other = run(data)[3], run(data)[3]
    assert free != other
    assert abs(int.from_bytes(free[:8], "little") / 10**9 - time.time()) < 60


def test_the_interface_is_the_packages() -> None:
    """What the worker declares by itself must be what the installed version has."""
    bindings: Any = __import__("wasmtime._bindings", fromlist=["x"])
    sys.path.insert(0, str(_HOME))
    try:
        capi: Any = __import__("worker.capi", fromlist=["x"])
    finally:
        sys.path.remove(str(_HOME))
    pairs = {
        "Extern": "wasmtime_extern",
        "Number": "wasmtime_val",
        "Val": "wasmtime_component_val",
        "Entry": "wasmtime_component_valrecord_entry",
        "Vec": "wasm_byte_vec_t",
    }
    for ours, theirs in pairs.items():
        mine, known = getattr(capi, ours), getattr(bindings, theirs)
        assert ctypes.sizeof(mine) == ctypes.sizeof(known), ours
        for (name, *_), (other, *_) in zip(mine._fields_, known._fields_, strict=True):
            assert getattr(mine, name).offset == getattr(known, other).offset, (ours, name)
    for name in ("func", "instance", "memory", "component_func", "component_instance"):
        assert ctypes.sizeof(getattr(bindings, f"wasmtime_{name}")) <= ctypes.sizeof(capi.Opaque), name
    for name, codes in capi._FUNCTIONS.items():
        function = getattr(bindings, f"_{name}")
        assert len(function.argtypes) == len(codes) - 1, name
        for code, argument in zip(codes[1:], function.argtypes, strict=True):
            assert ctypes.sizeof(capi._CODES[code]) == ctypes.sizeof(argument), name
        result = capi._CODES[codes[0]]
        assert (result is None) == (function.restype is None), name
        assert result is None or ctypes.sizeof(result) == ctypes.sizeof(function.restype), name
