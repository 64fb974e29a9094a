"""How a piece of source code becomes a program to start."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako._lib.text import printable
from jubako.boundary.contract import BoundaryKind
from jubako.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jubako.boundary.contract import Fact

__all__ = [
    "INLINE_LIMIT",
    "LANGUAGES",
    "WASM_SUFFIX",
    "Language",
    "language_for_file",
    "language_of_file",
    "language_of_name",
    "language_of_program",
    "languages_of_facts",
    "require_wasm",
]

WASM_SUFFIX: Final = ".wasm"
"""The ending of programs that need no interpreter inside, but the boundary ``wasm``."""

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


_JAVASCRIPT: Final = ("node", "js")
_NO_FACTS: Final[Mapping[str, Fact]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Language:
    """One language: its program, and how that is given code inline or from a file.

    ``preloadable`` languages start as forks of the preloaded interpreter where there is one.
    """

    name: str
    program: str
    suffixes: tuple[str, ...]
    inline: tuple[str, ...]
    from_file: tuple[str, ...]
    preloadable: bool = False

    def command(self, code: str) -> tuple[str, ...]:
        """Return the program for code that fits into an argument."""
        return (self.program, *self.inline, code)

    def file_command(self, path: str) -> tuple[str, ...]:
        """Return the program for code that was written to ``path`` inside."""
        return (self.program, *self.from_file, path)


LANGUAGES: Final[Mapping[str, Language]] = MappingProxyType(
    {
        "python": Language("python", "python3", (".py",), ("-c",), ("-c", _PYTHON_FROM_FILE), preloadable=True),
        "bash": Language("bash", "bash", (".sh", ".bash"), ("-c",), ()),
        "node": Language("node", "node", (".js", ".mjs", ".cjs"), ("-e",), ("-e", _NODE_FROM_FILE)),
        "js": Language("js", "js", (".js", ".mjs"), ("-e",), ()),
    }
)
"""The languages that ``run`` knows; which of them are present depends on the template."""


def language_of_name(name: str, facts: Mapping[str, Fact] = _NO_FACTS) -> Language:
    """Return the language of that name; ``javascript`` is the one that the driver's ``facts`` name.

    Raises InvalidRequestError.
    """
    if name == "javascript":
        return _javascript(facts)
    if name not in LANGUAGES:
        msg = f"no language is named {name!r}"
        known = ", ".join((*LANGUAGES, "javascript"))
        raise InvalidRequestError(msg, hint=f"known: {known}", details={"language": name})
    return LANGUAGES[name]


def language_of_file(name: str, facts: Mapping[str, Fact] = _NO_FACTS) -> Language | None:
    """Return the language that a file's name ending stands for, or None."""
    for language in LANGUAGES.values():
        if name.endswith(language.suffixes):
            return _javascript(facts) if language.name in _JAVASCRIPT else language
    return None


def language_for_file(name: str, language: str | None, facts: Mapping[str, Fact] = _NO_FACTS) -> Language:
    """Return the language that was asked for, or the one of the file's ending. Raises InvalidRequestError."""
    spoken = language_of_name(language, facts) if language else language_of_file(name, facts)
    if spoken is None:
        msg = f"the name {printable(name)} doesn't say which language it is"
        raise InvalidRequestError(msg, hint=f"name it: {', '.join(LANGUAGES)}")
    return spoken


def language_of_program(program: str) -> Language | None:
    """Return the language whose program that is, or None."""
    return next((language for language in LANGUAGES.values() if language.program == program), None)


def require_wasm(name: str, boundary: str) -> None:
    """Return where WebAssembly programs run. Raises InvalidRequestError."""
    if boundary != BoundaryKind.WASM:
        msg = f"{printable(name)} is a WebAssembly program: it needs the boundary wasm, not {boundary}"
        raise InvalidRequestError(msg, hint="pass boundary='wasm', or --boundary wasm", details={"boundary": boundary})


def languages_of_facts(facts: Mapping[str, Fact]) -> list[str]:
    """Return the languages that a driver says it has."""
    return [name for name in LANGUAGES if facts.get(f"language.{name}")]


def _javascript(facts: Mapping[str, Fact]) -> Language:
    present = [name for name in languages_of_facts(facts) if name in _JAVASCRIPT]
    return LANGUAGES[present[0] if present else _JAVASCRIPT[0]]
