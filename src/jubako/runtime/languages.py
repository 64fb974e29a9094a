"""How a piece of source code becomes a program to start."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["INLINE_LIMIT", "LANGUAGES", "Language", "language_of_file", "language_of_name"]

INLINE_LIMIT: Final = 100_000
"""Bytes of code that go into one argument; the kernel's limit is 128 KiB an argument."""

_PYTHON_FROM_FILE: Final = (
    # Keeps `__main__`, `sys.argv` and the import path as `-c` has them; leaves no name behind.
    "exec(compile(open(__import__('sys').argv[-1],'rb').read(),__import__('sys').argv.pop(),'exec'))"
)
_NODE_FROM_FILE: Final = (
    "(()=>{const f=process.argv.pop();"
    "require('vm').runInThisContext(require('fs').readFileSync(f,'utf8'),{filename:f})})()"
)


@dataclass(frozen=True, slots=True)
class Language:
    """One language: its program, and how that is given code inline or from a file."""

    name: str
    program: str
    suffixes: tuple[str, ...]
    inline: tuple[str, ...]
    from_file: tuple[str, ...]

    def command(self, code: str) -> tuple[str, ...]:
        """Return the program for code that fits into an argument."""
        return (self.program, *self.inline, code)

    def file_command(self, path: str) -> tuple[str, ...]:
        """Return the program for code that was written to ``path`` inside."""
        return (self.program, *self.from_file, path)


LANGUAGES: Final[Mapping[str, Language]] = MappingProxyType(
    {
        "python": Language("python", "python3", (".py",), ("-c",), ("-c", _PYTHON_FROM_FILE)),
        "bash": Language("bash", "bash", (".sh", ".bash"), ("-c",), ()),
        "node": Language("node", "node", (".js", ".mjs", ".cjs"), ("-e",), ("-e", _NODE_FROM_FILE)),
    }
)
"""The languages that ``run`` knows; which of them are present depends on the template."""


def language_of_name(name: str) -> Language:
    """Return the language of that name. Raises InvalidRequestError."""
    if name not in LANGUAGES:
        msg = f"no language is named {name!r}"
        raise InvalidRequestError(msg, hint=f"known: {', '.join(LANGUAGES)}", details={"language": name})
    return LANGUAGES[name]


def language_of_file(name: str) -> Language | None:
    """Return the language that a file's name ending stands for, or None."""
    for language in LANGUAGES.values():
        if name.endswith(language.suffixes):
            return language
    return None
