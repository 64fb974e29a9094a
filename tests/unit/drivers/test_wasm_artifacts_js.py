"""JavaScript for WebAssembly: its command line, what scripts find, how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from wasm_bench import bench

from jubako.drivers.wasmtime.artifacts import javascript_program

if TYPE_CHECKING:
    from pathlib import Path

    from wasm_bench import Bench


@pytest.fixture
def js_bench(tmp_path: Path) -> Bench:
    return bench(javascript_program, tmp_path)


def test_javascript_command_lines(js_bench: Bench) -> None:
    workspace = js_bench.workspace
    (workspace / "plain.js").write_text(
        "console.log(scriptArgs, process.argv, process.cwd()); f(); function f() { x.y }"
    )
    (workspace / "module.mjs").write_text("import { b } from './other.mjs'; await 1; console.log(b, process.env.HOME)")
    (workspace / "other.mjs").write_text("export const b = 'b';")
    cases = [
        (["-e", "console.log(1 + 1, {a: [1]}, 's', null, undefined)", "x"], 0, '2 {"a":[1]} s null undefined\n', ""),
        (["-e", "console.log(scriptArgs)", "x", "-y"], 0, '["x","-y"]\n', ""),
        (["-p", "6 * 7"], 0, "42\n", ""),
        (
            ["plain.js", "x"],
            1,
            '["plain.js","x"] ["js","plain.js","x"] /workspace\n',
            "ReferenceError: x is not defined",
        ),
        (["module.mjs"], 0, "b /workspace\n", ""),
        (["-e", "setTimeout(() => console.log('later'), 5); console.log('now')"], 0, "now\nlater\n", ""),
        (
            ["-e", "let n = 0; const t = setInterval(() => { if (++n == 3) { clearInterval(t); console.log(n) } }, 1)"],
            0,
            "3\n",
            "",
        ),
        (["-e", "const t = setTimeout(() => console.log('never'), 5); clearTimeout(t)"], 0, "", ""),
        (["-e", "await 1; console.log('awaited'); process.exit(4)"], 4, "awaited\n", ""),
        (["-e", "throw new Error('boo')"], 1, "", "Error: boo\n    at <eval> (<evalScript>:1:11)"),
        (["-e", "throw 5"], 1, "", "Uncaught 5"),
        (
            ["-e", "setTimeout(() => { throw new Error('late') }, 1); setTimeout(() => console.log('never'), 50)"],
            1,
            "",
            "Error: late",
        ),
        (["-e", "Promise.reject(new Error('r'))"], 1, "", "Error: r"),
        (["-e", "x("], 1, "", "SyntaxError"),
        (["-e", "console.error('to stderr', [1])"], 0, "", "to stderr [1]\n"),
        (["-e", "std.writeFile('out.txt', 'written'); console.log(std.loadFile('out.txt'))"], 0, "written\n", ""),
        (["-e", "console.log(std.loadFile('/etc/passwd'))"], 0, "null\n", ""),
        (["missing.js"], 2, "", "js: can't open file 'missing.js'"),
        (["-z"], 2, "", "js: unknown option -z"),
        (["-e"], 2, "", "js: -e needs code"),
        (["--version"], 0, "QuickJS-NG 0.17.0\n", ""),
        (["--help"], 0, "usage: js [-e code | -p code | file | -] [argument] ...\n", ""),
    ]
    ran = js_bench.run_all([{"argv": ["js", *argv]} for argv, _, _, _ in cases])
    for (argv, status, stdout, stderr), result in zip(cases, ran, strict=True):
        assert (argv, result.status, result.stdout) == (argv, status, stdout), result.stderr + result.trap
        assert stderr in result.stderr
    assert (workspace / "out.txt").read_text() == "written"
    source = "console.log('in', scriptArgs.length)"
    assert js_bench.run("js", stdin=source).stdout == "in 0\n"
    assert js_bench.run("js", "-", "x", stdin=source).stdout == "in 1\n"


def test_javascript_stops_at_its_limits(js_bench: Bench) -> None:
    bomb, deep = js_bench.run_all(
        [
            {"argv": ["js", "-e", "const x = []; while (true) x.push('y'.repeat(1e6) + x.length)"], "memory": 64 << 20},
            {"argv": ["js", "-e", "function f() { f() } f()"]},
        ]
    )
    assert bomb.status == 1
    assert "out of memory" in bomb.stderr
    assert deep.status != 0
    assert "stack" in deep.stderr + deep.trap
