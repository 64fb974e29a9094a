"""Generates the blocking API from the signatures and docstrings of the asynchronous one.

Bodies hold no logic: each calls its asynchronous twin through the bridge. ``--check`` changes nothing
and fails when the file in the tree isn't what would be written.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / "src/jubako/runtime"
TARGET = ROOT / "src/jubako/sync/_generated/blocking.py"

CLASSES = {  # asynchronous name: module
    "AsyncReader": "streams",
    "AsyncWriter": "streams",
    "AsyncConnection": "streams",
    "AsyncProcess": "process",
    "AsyncFiles": "files",
    "AsyncSandbox": "sandbox",
}
FUNCTIONS = {"async_explain": "advice", "async_doctor": "advice"}
RENAMED = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__",
           "aclose": "close"}  # fmt: skip
INTERNAL = {"drain", "forward", "next_ready"}  # of use to the asynchronous side only
OWN_PARAMETERS = {"runtime"}  # given by the bridge

HEADER = '''"""The blocking API. Written by scripts/gen_sync.py from the asynchronous one: do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from jubako.runtime import {runtime}
from jubako.sync.bridge import run_once, shared_bridge

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import PurePosixPath
    from types import TracebackType

    from jubako.boundary.card import Card
    from jubako.boundary.contract import ExitStatus, FileInfo, Usage, WatchEvent
    from jubako.policy import Policy
    from jubako.runtime import {types}
    from jubako.runtime.arguments import PolicyLike, Seconds, Terminal
    from jubako.runtime.files import GuestPath
    from jubako.runtime.tools import ToolLike
    from jubako.sync.bridge import Bridge

__all__ = {exports}
'''


def blocking(text: str) -> str:
    """Return the text with asynchronous names and words replaced."""
    text = re.sub(r"\bAsync(Sandbox|Files|Process|Reader|Writer|Connection)\b", r"\1", text)
    text = re.sub(r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]", text)
    text = text.replace("``async with``", "``with``").replace("``contextlib.aclosing``", "``contextlib.closing``")
    return re.sub(r"\n +(?:%s): .*(?:\n {12,}.*)*" % "|".join(OWN_PARAMETERS), "", text)  # noqa: UP031  # braces abound


def parse(module: str) -> ast.Module:
    """Return the syntax tree of one module of the asynchronous layer, numbers spelt as they are in it."""
    source = (RUNTIME / f"{module}.py").read_text()

    class Spelling(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.expr:
            number = isinstance(node.value, int) and not isinstance(node.value, bool)
            return ast.Name(ast.get_source_segment(source, node) or "") if number else node

    tree = ast.parse(source)
    Spelling().visit(tree)
    return tree


def find(name: str, module: str) -> ast.ClassDef | ast.AsyncFunctionDef:
    """Return the definition of that name."""
    for node in parse(module).body:
        if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef) and node.name == name:
            return node
    msg = f"{module}.py has no {name}"
    raise SystemExit(msg)


def docstring(node: ast.AST, indent: str) -> str:
    """Return the node's docstring as source, or nothing."""
    assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    text = ast.get_docstring(node, clean=True)
    if text is None:
        return ""
    prefix = "r" if "\\" in text else ""
    lines = blocking(text).replace("\n", f"\n{indent}")
    tail = f"\n{indent}" if "\n" in lines else ""
    return f'{indent}{prefix}"""{lines}{tail}"""\n'.replace(f"\n{indent}\n", "\n\n")


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool = True) -> tuple[str, str]:
    """Return the parameters as source, and the arguments that pass them on."""
    args = node.args
    keep = [
        (arg, default)
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        if arg.arg not in OWN_PARAMETERS
    ]
    args.kwonlyargs = [arg for arg, _ in keep]
    args.kw_defaults = [default for _, default in keep]
    passed = [arg.arg for arg in args.args[1 if method else 0 :]]
    passed += [f"*{args.vararg.arg}"] if args.vararg else []
    passed += [f"{arg.arg}={arg.arg}" for arg in args.kwonlyargs]
    return blocking(ast.unparse(args)), ", ".join(passed)


def wrapped(returns: str, call: str) -> str:
    """Return the expression that hands a result over, wrapped where it is of a class that has a blocking twin."""
    name = blocking(returns)
    if returns == "list[AsyncSandbox]":
        return f"[Sandbox._around(self._bridge, inner) for inner in {call}]"
    return f"{name}(self._bridge, {call})" if returns in CLASSES else call


def alternative(node: ast.FunctionDef, owner: str) -> str:
    """Return a class method that makes one, as source."""
    parameters, passed = signature(node)
    return (
        f"    @classmethod\n    def {node.name}({parameters}) -> Self:\n{docstring(node, '        ')}"
        f'        bridge = shared_bridge("{blocking(owner)}")\n'
        f"        return cls._around(bridge, {owner}.{node.name}({passed}, runtime=bridge.runtime))\n"
    )


def method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return one blocking method as source."""
    name = RENAMED.get(node.name, node.name)
    parameters, passed = signature(node)
    assert node.returns is not None
    returns = ast.unparse(node.returns)
    # Properties are the only decorated methods that come here.
    decorators = "".join(f"    @{ast.unparse(item)}\n" for item in node.decorator_list)
    head = f"{decorators}    def {name}({parameters}) -> {blocking(returns)}:\n{docstring(node, '        ')}"
    twin = f"self._inner.{node.name}"
    special = {
        "__aenter__": f"self._bridge.call({twin})\n        return self",
        "__aiter__": "return self",
        "__anext__": f"return self._bridge.next(self._inner.next_ready, {twin})",
    }
    if node.name in special:
        body = special[node.name]
    elif returns.startswith("AsyncGenerator["):
        body = f"return self._bridge.iterate({twin}({passed}))"
    elif decorators:
        body = f"return {wrapped(returns, twin)}"
    elif isinstance(node, ast.FunctionDef):
        body = f"return {wrapped(returns, f'{twin}({passed})')}"
    else:
        call = f"self._bridge.call({twin}{', ' if passed else ''}{passed})"
        body = ("" if returns == "None" else "return ") + wrapped(returns, call)
    return f"{head}        {body}\n"


def constructor(node: ast.FunctionDef, owner: str) -> str:
    """Return the constructor: public with the asynchronous one's parameters, or internal around a twin."""
    if owner != "AsyncSandbox":
        return (
            f"    def __init__(self, bridge: Bridge, inner: {owner}) -> None:\n"
            "        self._bridge = bridge\n        self._inner = inner\n"
        )
    parameters, passed = signature(node)
    return (
        f"    def __init__({parameters}) -> None:\n"
        f'        self._bridge = shared_bridge("{blocking(owner)}")\n'
        f"        self._inner = {owner}({passed}, runtime=self._bridge.runtime)\n\n"
        f"    @classmethod\n    def _around(cls, bridge: Bridge, inner: {owner}) -> Self:\n"
        "        made = cls.__new__(cls)\n"
        "        made._bridge, made._inner = bridge, inner  # noqa: SLF001  # of this class\n"
        "        return made\n"
    )


def class_source(name: str, module: str) -> str:
    """Return one blocking class as source."""
    node = find(name, module)
    assert isinstance(node, ast.ClassDef)
    parts = [f"class {blocking(name)}:\n{docstring(node, '    ')}"]
    for item in node.body:
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) or item.name in INTERNAL:
            continue
        if item.name == "__init__":
            assert isinstance(item, ast.FunctionDef)
            parts.append(constructor(item, name))
        elif item.decorator_list and ast.unparse(item.decorator_list[0]) == "classmethod":
            if not item.name.startswith("_"):
                assert isinstance(item, ast.FunctionDef)
                parts.append(alternative(item, name))
        elif not item.name.startswith("_") or item.name in RENAMED:
            parts.append(method(item))
    return "\n".join(parts)


def function_source(name: str, module: str) -> str:
    """Return one blocking function as source."""
    node = find(name, module)
    assert isinstance(node, ast.AsyncFunctionDef)
    assert node.returns is not None
    parameters, passed = signature(node, method=False)
    head = f"def {name.removeprefix('async_')}({parameters}) -> {ast.unparse(node.returns)}:\n"
    return f"{head}{docstring(node, '    ')}    return run_once({name}{', ' if passed else ''}{passed})\n"


def generate() -> str:
    """Return the whole module, formatted."""
    names = sorted(blocking(name) for name in CLASSES)
    functions = sorted(name.removeprefix("async_") for name in FUNCTIONS)
    inner = [name for name in CLASSES if name != "AsyncSandbox"]
    parts = [
        HEADER.format(
            runtime=", ".join(sorted(["AsyncSandbox", *FUNCTIONS], key=str)),
            types=", ".join(sorted([*inner, "DoctorReport", "RunResult", "SandboxState", "Snapshot"])),
            exports=[*names, *functions],
        ),
        *(class_source(name, module) for name, module in CLASSES.items()),
        *(function_source(name, module) for name, module in FUNCTIONS.items()),
    ]
    source = "\n\n".join(parts)
    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff), "format", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write the module, or with ``--check`` compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the file is out of date")
    check = parser.parse_args().check
    source = generate()
    if check:
        if not TARGET.exists() or TARGET.read_text() != source:
            print(f"{TARGET.relative_to(ROOT)} is out of date: run scripts/gen_sync.py")
            return 1
        return 0
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
