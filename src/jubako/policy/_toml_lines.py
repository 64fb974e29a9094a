"""Where each key of a TOML document stands. ``tomllib`` checks and reads the text; this only finds places.

Made for text that ``tomllib`` has accepted. On anything else it stops early and returns what it has,
so the worst case is an error message without a line.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final, TypeAlias

__all__ = ["DEEPEST", "Path", "Place", "TooDeepError", "toml_places"]

DEEPEST: Final = 32
"""How deep a policy may nest; ``tomllib`` itself takes quadratic time for long dotted keys."""

Path: TypeAlias = tuple[str | int, ...]
Place: TypeAlias = tuple[int, int]
"""Line and column, both from 1."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SPACE: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_LITERAL: Final = re.compile(r"'[^'\n]*'")
_BASIC: Final = re.compile(r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"')
_LONG_LITERAL: Final = re.compile(r"'''.*?'''(?:''?(?!'))?", re.DOTALL)
_LONG_BASIC: Final = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:""?(?!"))?', re.DOTALL)
_ATOM: Final = re.compile(r"[^,\]\}\n#]*")


class _Stop(Exception):  # noqa: N818  # an early end, not an error
    """The text is not what the scanner expects."""


class TooDeepError(ValueError):
    """Something is nested deeper than a policy may be."""

    def __init__(self, place: Place) -> None:
        super().__init__(f"nested more than {DEEPEST} deep")
        self.place = place


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.places: dict[Path, Place] = {}
        self._line = 1
        self._line_start = 0
        self._counted = 0
        self._tables: dict[Path, int] = {}

    def run(self) -> None:
        base: Path = ()
        while True:
            self.take(_BLANK)
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                base = self.header()
            else:
                self.pair(base)

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise _Stop
        self.at = match.end()
        return match[0]

    def expect(self, token: str) -> None:
        if not self.text.startswith(token, self.at):
            raise _Stop
        self.at += len(token)

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def mark(self, path: Path, at: int) -> None:
        """Remember the place of ``path``; places are asked for in the order of the text."""
        self._line += self.text.count("\n", self._counted, at)
        self._counted = at
        self._line_start = self.text.rfind("\n", 0, at) + 1
        place = (self._line, at - self._line_start + 1)
        if len(path) > DEEPEST:
            raise TooDeepError(place)
        self.places.setdefault(path, place)

    def key(self) -> tuple[str, ...]:
        """Take a key with its dots, and the space after it."""
        parts: list[str] = []
        while True:
            self.take(_SPACE)
            quote = self.peek()
            if quote == "'":
                parts.append(self.take(_LITERAL)[1:-1])
            elif quote == '"':
                parts.append(_unescape(self.take(_BASIC)))
            else:
                parts.append(self.take(_BARE))
            self.take(_SPACE)
            if self.peek() != "." or len(parts) > DEEPEST:
                return tuple(parts)
            self.at += 1

    def header(self) -> Path:
        start = self.at
        double = self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        parts = self.key()
        self.expect("]]" if double else "]")
        path: Path = ()
        for index, part in enumerate(parts):
            path += (part,)
            self.mark(path, start)
            if double and index == len(parts) - 1:
                self._tables[path] = self._tables.get(path, -1) + 1
            if path in self._tables:
                path += (self._tables[path],)
                self.mark(path, start)
        return path

    def pair(self, base: Path) -> None:
        start = self.at
        path = base
        for part in self.key():
            path += (part,)
            self.mark(path, start)
        self.expect("=")
        self.take(_SPACE)
        self.value(path)

    def value(self, path: Path) -> None:
        text, at = self.text, self.at
        if text.startswith('"""', at):
            self.take(_LONG_BASIC)
        elif text.startswith("'''", at):
            self.take(_LONG_LITERAL)
        elif text.startswith('"', at):
            self.take(_BASIC)
        elif text.startswith("'", at):
            self.take(_LITERAL)
        elif text.startswith("[", at):
            self.array(path)
        elif text.startswith("{", at):
            self.inline_table(path)
        elif not self.take(_ATOM).strip():
            raise _Stop

    def array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while True:
            self.take(_BLANK)
            if self.peek() == "]":
                self.at += 1
                return
            self.mark((*path, index), self.at)
            self.value((*path, index))
            index += 1
            self.take(_BLANK)
            if self.peek() == ",":
                self.at += 1
            elif self.peek() != "]":
                raise _Stop

    def inline_table(self, path: Path) -> None:
        self.at += 1
        while True:
            self.take(_BLANK)
            if self.peek() == "}":
                self.at += 1
                return
            self.pair(path)
            self.take(_BLANK)
            if self.peek() == ",":
                self.at += 1
            elif self.peek() != "}":
                raise _Stop


def _unescape(quoted: str) -> str:
    if "\\" not in quoted:
        return quoted[1:-1]
    try:
        value: object = tomllib.loads(f"k = {quoted}")["k"]
    except tomllib.TOMLDecodeError:
        raise _Stop from None
    return str(value)


def toml_places(text: str) -> dict[Path, Place]:
    """Return line and column of every table, key and array element in ``text``, the first where there are several.

    Raises TooDeepError.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    try:
        scanner.run()
    except _Stop:
        return scanner.places
    return scanner.places
