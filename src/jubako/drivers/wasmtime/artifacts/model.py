"""The value that a built program is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Kind", "Program", "Progress"]

Kind = Literal["component-python", "component-command", "core-command"]
"""How a program is called.

``component-python``: a component of world ``jubako:guest/python``: it imports ``jubako:guest/tools`` beside WASI
preview 2, and exports ``run: func(argv: list<string>) -> s32``, where ``argv[0]`` is the program's name.
``component-command``: a component that exports ``wasi:cli/run``; it may import ``jubako:guest/tools``.
``core-command``: a module of WASI preview 1 that exports ``_start``; it may import ``jubako``.
"""

Progress = Callable[[str], None]
"""Called with one short line when something starts that takes seconds."""


@dataclass(frozen=True, slots=True)
class Program:
    """A precompiled program, ready to be deserialised by an engine of ``engine_config()``.

    Attributes:
        kind: How it is called.
        cwasm: The precompiled file; its owner, mode and digest were verified when this was returned.
        digest: SHA-256 (hex) of the WebAssembly that it was compiled from.
        name: What people call it: ``python``, ``js``, or the first characters of the digest.
    """

    kind: Kind
    cwasm: Path
    digest: str
    name: str
