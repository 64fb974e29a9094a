"""Refuse modules that grew too large: 600 lines, and 60 a function (CONTRIBUTING.md says why)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

MODULE_LINES = 600
FUNCTION_LINES = 60
EXEMPT = ("/_generated/", "/programs/")


def tracked() -> list[Path]:
    """Return the modules that the limits hold for."""
    listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=True).stdout.split()
    return [Path(name) for name in listed if not any(part in f"/{name}" for part in EXEMPT) and Path(name).exists()]


def problems(path: Path) -> list[str]:
    """Return what is too large in a module."""
    text = path.read_text(encoding="utf-8")
    found = []
    lines = text.count("\n")
    if lines > MODULE_LINES:
        found.append(f"{path}: {lines} lines, at most {MODULE_LINES}: split it by concern")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}")
    return found


def main() -> int:
    """Print every module or function over its size; return 1 if there is one."""
    found = [line for path in tracked() for line in problems(path)]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
