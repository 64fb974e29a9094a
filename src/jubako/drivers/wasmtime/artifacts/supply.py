"""Where the WebAssembly comes from: the guest's sources here, engines in installed packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jubako.drivers.wasmtime.engine import SETTINGS
from jubako.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GUEST", "compilation_key", "engine_words", "python_key", "require"]

GUEST: Final = Path(__file__).resolve().parent / "guest"
"""The sources of the Python component: data for this process, never imported by it."""

_EXTRA: Final = "pip install 'jubako[wasm]'"
_COMPONENT_FORMAT: Final = 1
_CPU_LINES: Final = ("flags", "Features", "isa", "vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
# Decides how a compiler works, not what it makes.
_NEUTRAL: Final = frozenset({"parallel_compilation"})


def require(*names: str) -> tuple[str, ...]:
    """Return the versions of installed packages. Raises MissingExtraError."""
    return tuple(_version(name) for name in names)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        msg = f"the WebAssembly boundary needs the package {name}"
        raise MissingExtraError(msg, hint=_EXTRA, details={"package": name}) from None


def engine_words(*, parallel: bool) -> str:
    """Return the engine's configuration as the workshop reads it."""
    fixed = [f"{name}:{int(value)}" for name, value in SETTINGS if name not in _NEUTRAL]
    return ",".join([*fixed, f"parallel_compilation:{int(parallel)}"])


def python_key() -> str:
    """Return what the Python component is made of, in one digest."""
    parts: list[str] = ["python", str(_COMPONENT_FORMAT), *require("componentize-py")]
    for path in sorted(GUEST.glob("*.py")) + sorted(GUEST.glob("*.wit")):
        parts += [path.name, path.read_text(encoding="utf-8")]
    return _digest(parts)


def compilation_key(source: str) -> str:
    """Return the key of ``source`` (a digest) compiled here: by this wasmtime, so configured, for this processor.

    wasmtime itself refuses code of another version or configuration; processors that lack an instruction it can't
    always tell from a copy of a cache, so they have keys of their own.
    """
    fixed = [f"{name}:{int(value)}" for name, value in SETTINGS if name not in _NEUTRAL]
    return _digest(["compiled", source, *require("wasmtime"), *fixed, platform.machine(), sys.byteorder, *_processor()])


def _processor() -> tuple[str, ...]:
    """Return what the kernel says of the first processor's kind and instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    first = text.split("\n\n", 1)[0]
    return tuple(line for line in first.splitlines() if line.split(":", 1)[0].strip() in _CPU_LINES)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
