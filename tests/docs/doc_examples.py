"""Find the examples of the documents and say how each is to be tested.

A Python block is always an example. Others are made one by a comment on the line before them:

    <!-- example: run -->           a console block: run what follows "$ ", compare what follows that
    <!-- example: file NAME -->     the block is the content of a file that later examples find
    <!-- example: output -->        what the Python block before it prints
    <!-- example: skip REASON -->   not run, because

Expected output is compared line by line without trailing blanks; a line "..." stands for any number
of lines, and "..." within a line for any text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_MARK = re.compile(r"^ *<!-- example: (\w+) ?(.*?) *-->$")
_LANGUAGES = {"python", "py", "console"}


class Kind(StrEnum):
    PYTHON = "python"
    CONSOLE = "console"
    FILE = "file"
    OUTPUT = "output"
    SKIP = "skip"


@dataclass(slots=True)
class Example:
    page: Path
    line: int
    kind: Kind
    text: str
    argument: str = ""
    files: dict[str, str] = field(default_factory=dict)
    output: str | None = None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a console block, and what it should print."""

    command: str
    expected: str


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]


def examples(page: Path) -> list[Example]:
    """Return the examples of a page; each knows the files that the page has laid before it."""
    found: list[Example] = []
    files: dict[str, str] = {}
    for line, language, mark, argument, text in _blocks(page):
        kind = _kind(page, line, language, mark)
        if kind is None:
            continue
        if kind is Kind.FILE:
            files = {**files, argument: text}
        elif kind is Kind.OUTPUT:
            if not found or found[-1].kind is not Kind.PYTHON:
                msg = f"{page}:{line}: output of what?"
                raise ValueError(msg)
            found[-1].output = text
        else:
            found.append(Example(page, line, kind, text, argument, files))
    return found


def _kind(page: Path, line: int, language: str, mark: str) -> Kind | None:
    if mark == "run":
        if language not in {"console", "python"}:
            msg = f"{page}:{line}: only console blocks can be run"
            raise ValueError(msg)
        return Kind.CONSOLE if language == "console" else Kind.PYTHON
    if mark:
        return Kind(mark)
    return Kind.PYTHON if language in {"python", "py"} else None


def _blocks(page: Path) -> list[tuple[int, str, str, str, str]]:
    """Return line, language, mark, its argument, and text of every fenced block."""
    found = []
    mark, argument = "", ""
    start, indent, language = 0, "", ""
    body: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if start:
            if fence and not fence[2] and fence[1] == indent:
                found.append((start, language, mark, argument, "\n".join(body) + "\n"))
                start, mark, argument = 0, "", ""
            else:
                body.append(line.removeprefix(indent))
        elif fence:
            start, indent, language, body = number, fence[1], fence[2], []
        elif marked := _MARK.match(line):
            mark, argument = marked[1], marked[2]
        elif line.strip():
            if mark:
                msg = f"{page}:{number}: an example mark with no block below it"
                raise ValueError(msg)
            mark, argument = "", ""
    return found


def steps(text: str) -> list[Step]:
    """Return the commands of a console block; a command goes on while its lines end with a backslash."""
    found: list[Step] = []
    command: list[str] = []
    output: list[str] = []
    for line in text.splitlines():
        if command and command[-1].endswith("\\"):
            command.append(line.removeprefix("> "))
        elif line.startswith(("$ ", "# ")) and (line.startswith("$") or not command):
            if command:
                found.append(Step("\n".join(command), "\n".join(output)))
            command, output = ([line[2:]], []) if line.startswith("$") else ([], [])
        else:
            output.append(line)
    if command:
        found.append(Step("\n".join(command), "\n".join(output)))
    return found


def matches(expected: str, actual: str) -> bool:
    """Whether the output is as expected, "..." standing for anything."""
    lines = [line.rstrip() for line in expected.strip("\n").splitlines()]
    pattern = ""
    for line in lines:
        pattern += r"(?:[^\n]*\n)*?" if line.strip() == "..." else ".*?".join(map(re.escape, line.split("..."))) + r"\n"
    text = "".join(f"{line.rstrip()}\n" for line in actual.strip("\n").splitlines())
    return re.fullmatch(pattern, text) is not None
