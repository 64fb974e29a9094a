"""The throw-away process that builds and compiles: it bounds itself first, works, and says how it went.

Started as ``python -I workshop.py TASK NAME=VALUE...`` with an empty environment; imports nothing of jubako. What it
found is one JSON object on stdout: ``{"ok": {...}}``, or ``{"refused": "why"}`` for input that can't be used. Any
other end is a failure of the tools or a limit that was hit.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import struct
import sys
from pathlib import Path
from typing import Any

_WASI_1 = "wasi_snapshot_preview1"
_OWN = "jubako"
_OWN_TOOLS = "jubako:guest/tools"
_RUN = "wasi:cli/run@0.2."
_WASI_2 = tuple(f"wasi:{package}/" for package in ("cli", "clocks", "filesystem", "io", "random", "sockets"))
_LIBRARIES = ("engine",)
_CORE, _COMPONENT = b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"
_NO_DUMPS, _NO_NEW_PRIVILEGES, _NEW_NETWORK, _NEW_USERS = 4, 38, 0x40000000, 0x10000000
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _BENEATH = 444, 445, 446, 1
_ALL_FILE_ACCESS = (1 << 13) - 1


class RefusedError(Exception):
    """The input can't be used; the text says why."""


def bound(limits: dict[str, int]) -> None:
    """Take the limits, and give up what is not needed: privileges, the network, core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, number in (("memory", resource.RLIMIT_AS), ("cpu", resource.RLIMIT_CPU), ("file", resource.RLIMIT_FSIZE)):
        if limits.get(name, 0):
            resource.setrlimit(number, (limits[name], limits[name]))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.prctl(_NO_DUMPS, 0, 0, 0, 0)
    # Best effort: there is nothing to send and nobody to send it to, and the limits above hold anyhow.
    if libc.unshare(_NEW_NETWORK) != 0:
        libc.unshare(_NEW_USERS | _NEW_NETWORK)


def confine(directory: str) -> None:
    """Keep every file but those below ``directory`` out of reach, where the kernel has Landlock.

    Called when everything is imported: what a hostile module could make of the compiler sees nothing more.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.c_uint64(_ALL_FILE_ACCESS)
    rules = libc.syscall(_CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if rules < 0:
        return  # a kernel without it: the limits and the missing network are left
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    rule = struct.pack("=Qi", _ALL_FILE_ACCESS, place)
    if libc.syscall(_ADD_RULE, rules, _BENEATH, rule, 0) or libc.syscall(_RESTRICT_SELF, rules, 0):
        raise OSError(ctypes.get_errno(), "Landlock refused its rules")


def build_component(words: dict[str, str]) -> dict[str, object]:
    """Build the Python component from the guest's sources."""
    sources = words["sources"]
    sys.argv = ["componentize-py", "-q", "-d", sources, "-w", "python", "componentize", "jubako_guest"]
    sys.argv += ["-p", sources, "-p", words["data"], "-o", words["out"]]
    builder: Any = importlib.import_module("componentize_py")
    builder.script()
    return {}


def compile_file(words: dict[str, str]) -> dict[str, object]:
    """Compile a module or component, and say what it is. Raises RefusedError."""
    import wasmtime

    origin = words["origin"]
    if origin == "user":
        importlib.import_module("wasmtime.component")  # now: there are no files later
        confine(str(Path(words["wasm"]).parent))
    data = Path(words["wasm"]).read_bytes()
    try:
        if origin == "text":
            data = bytes(wasmtime.wat2wasm(data))
        engine = wasmtime.Engine(_config(words))
        if origin == "library":
            # Pinned by its digest, and without a _start: another module calls it.
            kind, code = "core-library", bytes(wasmtime.Module(engine, data).serialize())
        elif data[:8] == _COMPONENT:
            kind, code = _component(engine, data, own=origin == "python")
        else:
            kind, code = _module(engine, data, _LIBRARIES if origin == "text" else ())
    except wasmtime.WasmtimeError as error:
        raise RefusedError(str(error)[:1000]) from None
    Path(words["out"]).write_bytes(code)
    return {"kind": kind}


def _config(words: dict[str, str]) -> Any:
    import wasmtime
    from wasmtime import _bindings

    config = wasmtime.Config()
    for item in words["engine"].split(","):
        name, _, value = item.partition(":")
        getattr(_bindings, f"wasmtime_config_{name}_set")(config.ptr(), int(value))
    return config


def _module(engine: Any, data: bytes, libraries: tuple[str, ...]) -> tuple[str, bytes]:
    import wasmtime

    if data[:8] != _CORE:
        raise RefusedError("not a WebAssembly module or component")
    module = wasmtime.Module(engine, data)
    linker, store = wasmtime.Linker(engine), wasmtime.Store(engine)
    linker.define_wasi()
    for item in module.imports:
        name = f"{item.module}.{item.name}"
        if item.module in libraries:
            continue
        if not isinstance(item.type, wasmtime.FuncType):
            msg = f"it imports {name[:200]}, which is not a function"
            raise RefusedError(msg)
        known = item.module == _OWN or (item.module == _WASI_1 and _defined(linker, store, str(item.name)))
        if not known:
            msg = f"it imports {name[:200]}; there is WASI preview 1 ({_WASI_1}) and {_OWN}"
            raise RefusedError(msg)
    starts = [item.type for item in module.exports if item.name == "_start"]
    if not any(isinstance(item, wasmtime.FuncType) and not item.params and not item.results for item in starts):
        raise RefusedError("it exports no function _start: only WASI commands can be run")
    return "core-command", bytes(module.serialize())


def _defined(linker: Any, store: Any, name: str) -> bool:
    try:
        linker.get(store, _WASI_1, name)
    except Exception:  # noqa: BLE001  # the package says so with several kinds of errors
        return False
    return True


def _component(engine: Any, data: bytes, *, own: bool) -> tuple[str, bytes]:
    import wasmtime.component

    component = wasmtime.component.Component(engine, data)
    for name in component.type.imports(engine):
        if name != _OWN_TOOLS and not (name.startswith(_WASI_2) and "@0.2." in name):
            msg = f"it imports {name[:200]}; there is WASI preview 2 and {_OWN_TOOLS}"
            raise RefusedError(msg)
    exports = component.type.exports(engine)
    if any(name.startswith(_RUN) for name in exports):
        return "component-command", bytes(component.serialize())
    if own and "run" in exports:
        return "component-python", bytes(component.serialize())
    raise RefusedError("it does not export wasi:cli/run: only commands can be run")


def main(argv: list[str]) -> int:
    """Do one task; return the exit status."""
    words = dict(word.split("=", 1) for word in argv[1:])
    bound({name: int(words.get(name, "0")) for name in ("memory", "cpu", "file")})
    try:
        answer: dict[str, object] = {"ok": {"component": build_component, "compile": compile_file}[argv[0]](words)}
    except RefusedError as error:
        answer = {"refused": str(error)}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Threads of the libraries may be alive still; nothing is left to be done.
    os._exit(code)
