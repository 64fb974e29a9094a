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

``component-python``: a component of the world in ``guest/world.wit``: it imports ``jubako:guest/tools`` beside WASI
preview 2, and exports ``run(argv)``, ``argv[0]`` being the program's name. It changes to the directory that the
environment's ``PWD`` names. It answers the exit status, plus 256 when an uncaught MemoryError or RecursionError ended
it; ``os._exit`` leaves through ``wasi:cli/exit`` instead.
``component-command``: a component that exports ``wasi:cli/run``; it may import ``jubako:guest/tools``.
``core-command``: a module of WASI preview 1 that exports ``_start``; it may import functions of ``jubako``. Where the
program has libraries, they are instantiated before it, as ``wasmtime_linker_module`` does: each is a reactor, and its
exports are what the command imports under the library's name.
"""

Progress = Callable[[str], None]
"""Called with one short line when something starts that takes seconds."""


@dataclass(frozen=True, slots=True)
class Program:
    """A precompiled program, ready to be deserialised by an engine of ``drivers.wasmtime.engine.SETTINGS``.

    Attributes:
        kind: How it is called.
        cwasm: The precompiled file; its owner, mode and digest were verified when this was returned.
        digest: SHA-256 (hex) of the WebAssembly that it was compiled from.
        libraries: Precompiled modules that the program imports from, by name, verified likewise.
        name: What people call it: ``python``, ``js``, or the first characters of the digest.
    """

    kind: Kind
    cwasm: Path
    digest: str
    name: str
    libraries: tuple[tuple[str, Path], ...] = ()
