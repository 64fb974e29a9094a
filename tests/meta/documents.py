"""Reading the project's own documents: tables, and the tests that they name."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"`([^`]+)`")
TEST = re.compile(r"tests/[\w./-]+\.py(::[\w:]+)?")


class Row(NamedTuple):
    """One row of a table: the page's line, and the cells by the heading of their column."""

    line: int
    cells: dict[str, str]


def cells_of(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def tables(page: Path) -> list[list[Row]]:
    """Return the page's tables; code blocks are skipped."""
    found: list[list[Row]] = []
    heading: list[str] = []
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        if fenced or not line.startswith("|"):
            heading = []
        elif not heading:
            heading = [cell.lower() for cell in cells_of(line)]
            found.append([])
        elif not set(line) <= set("|-: "):
            cells = cells_of(line)
            assert len(cells) == len(heading), f"{page.name}:{number}: {len(cells)} cells under {len(heading)} headings"
            found[-1].append(Row(number, dict(zip(heading, cells, strict=True))))
    return found


def rows(page: Path, *columns: str) -> list[Row]:
    """Return the rows of all tables that have these columns."""
    return [row for table in tables(page) for row in table if set(columns) <= set(row.cells)]


def words(cell: str) -> list[str]:
    """Return what a cell says in code type."""
    return CODE.findall(cell)


@cache
def _definitions(path: Path) -> frozenset[str]:
    """Names of functions and ``Class::method`` in a Python file, also those that a base class gives."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {
                f"{node.name}::{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(found)


def missing_test(name: str) -> str | None:
    """Say what is wrong with the name of a test, or return None when it exists."""
    path, _, member = name.partition("::")
    if not (ROOT / path).is_file():
        return f"{path} does not exist"
    if member and member not in _definitions(ROOT / path):
        return f"{path} has no {member}"
    return None


@cache
def tracked(*patterns: str) -> tuple[Path, ...]:
    """Return the files of the repository that match, the deleted ones left out."""
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file())
