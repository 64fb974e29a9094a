"""WebAssembly sandboxes as callers use them: every limit by its name, neighbours that go on, tools, own modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from jubako import AsyncSandbox, Policy
from jubako.policy import ResourcePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.driver("wasmtime"), pytest.mark.timeout(300)]

wasmtime = pytest.importorskip("wasmtime", reason="the extra jubako[wasm] is not installed")

_MIB = 1024 * 1024
_COMMANDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "loop": ("while True: pass", ("time.exec",)),
    "sleep": ("import time; time.sleep(3600)", ("time.exec",)),
    "memory": ("x = []\nwhile True: x.append(bytearray(1 << 20))", ("resource.memory",)),
    "memory at once": ("bytearray(1 << 30)", ("resource.memory",)),
    "recursion": ("def f(): return f() + 1\nf()", ("resource.memory",)),
    "output": ("while True: print('x' * 1000)", ("resource.output", "time.exec")),
}


async def test_every_bomb_names_its_limit_and_neighbours_go_on() -> None:
    policy = Policy(resources=ResourcePolicy(memory=512 * _MIB))
    async with AsyncSandbox(boundary="wasm", policy=policy) as box, AsyncSandbox(boundary="wasm") as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_work, box)
            tasks.start_soon(_work, other)
            for name, (code, limits) in _COMMANDS.items():
                result = await box.run(code, timeout=3)
                assert not result.ok, name
                assert set(limits) & set(result.limit_hits), (name, result)
        assert (await box.run("print('still here')")).stdout == "still here\n"


async def _work(box: AsyncSandbox) -> None:
    code = "import time\nfor n in range(40): time.sleep(0.1)\nprint(n)"
    result = await box.run(code)
    assert result.stdout == "39\n", result


async def test_files_are_shared_with_the_host_side_and_private_to_the_sandbox() -> None:
    async with AsyncSandbox(boundary="wasm") as box, AsyncSandbox(boundary="wasm") as other:
        await box.files.write("in.txt", "in")
        result = await box.run("open('out.txt', 'w').write(open('in.txt').read() + ' and out'); open('/tmp/x', 'w')")
        assert result.ok, result
        assert await box.files.read_text("out.txt") == "in and out"
        listing = await other.run("import os; print(os.listdir('.'), os.listdir('/tmp'))")
        assert listing.stdout == "[] []\n"
        for path in ("/etc/passwd", "/proc/self/environ", "../run", "/usr"):
            assert "Error" in (await box.run(f"open({path!r})")).stderr


async def _code(box: AsyncSandbox, *argv: str) -> int | None:
    return (await (await box.exec(argv)).wait()).code


async def test_modules_of_the_caller_run_by_name_and_from_the_workspace(tmp_path: Path) -> None:
    text = (
        '(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
        '(memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 42))))'
    )
    data = bytes(wasmtime.wat2wasm(text))
    file = tmp_path / "answer.wasm"
    file.write_bytes(data)
    policy = Policy(driver_options={"wasmtime": {"modules": {"answer": str(file)}}})
    async with AsyncSandbox(boundary="wasm", policy=policy) as box:
        assert await _code(box, "answer") == 42
        await box.files.write("own.wasm", data)
        assert await _code(box, "own.wasm") == 42
        assert await _code(box, "./own.wasm") == 42
        assert await _code(box, "missing.wasm") == 127
        await box.files.write("bad.wasm", b"\0asm bad")
        assert await _code(box, "bad.wasm") == 126


async def test_a_fixed_clock_and_seed_repeat_python() -> None:
    policy = Policy(driver_options={"wasmtime": {"clock": "2026-01-01T00:00:00Z", "random_seed": 3}})
    code = "import time, random, os; print(int(time.time()), random.random(), os.urandom(8).hex())"
    async with AsyncSandbox(boundary="wasm", policy=policy) as box:
        first, second = await box.run(code), await box.run(code)
    assert first.stdout == second.stdout, first.stderr
    assert first.stdout.startswith("1767225600 ")
