"""Runs programs with the plain wasmtime package, as a process of its own: the engine's threads end with it.

Reads one JSON object on stdin: the program, and a list of command lines; writes what each did as JSON.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import time
from typing import Any

import wasmtime
import wasmtime.component as components
from wasmtime import _bindings

_EPOCHS = 10**9


def engine_of(settings: list[list[Any]]) -> wasmtime.Engine:
    config = wasmtime.Config()
    for name, value in settings:
        getattr(_bindings, f"wasmtime_config_{name}_set")(config.ptr(), int(value))
    return wasmtime.Engine(config)


def tool(_store: Any, name: str, arguments: str) -> components.Variant:
    if name == "denied":
        return components.Variant("err", json.dumps({"code": "tool-denied", "message": "not granted"}))
    if name == "broken":
        return components.Variant("err", "no JSON")
    return components.Variant("ok", json.dumps({"name": name, "arguments": json.loads(arguments)}))


class Runner:
    """One program, run any number of times."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.engine = engine_of(job["settings"])
        self.kind = job["kind"]
        self.libraries = {name: wasmtime.Module.deserialize_file(self.engine, path) for name, path in job["libraries"]}
        if self.kind.startswith("component"):
            self.program: Any = components.Component.deserialize_file(self.engine, job["cwasm"])
        else:
            self.program = wasmtime.Module.deserialize_file(self.engine, job["cwasm"])

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        out, err = bytearray(), bytearray()
        store, wasi = wasmtime.Store(self.engine), wasmtime.WasiConfig()
        store.set_epoch_deadline(_EPOCHS)
        store.set_limits(memory_size=case.get("memory", 256 << 20))
        wasi.argv, wasi.env = case["argv"], list(case["env"].items())
        wasi.stdout_custom, wasi.stderr_custom = collector(out, case.get("room", 1 << 30)), collector(err, 1 << 30)
        for place in case["preopens"]:
            wasi.preopen_dir(place[0], place[1])
        with tempfile.NamedTemporaryFile() as stdin:
            stdin.write(case.get("stdin", "").encode())
            stdin.flush()
            wasi.stdin_file = stdin.name
            store.set_wasi(wasi)
            started = time.perf_counter()
            status, trap = self.call(store, case["argv"])
        return {
            "status": status,
            "trap": trap,
            "stdout": out.decode("utf-8", "surrogateescape"),
            "stderr": err.decode("utf-8", "surrogateescape"),
            "seconds": time.perf_counter() - started,
        }

    def call(self, store: wasmtime.Store, argv: list[str]) -> tuple[int, str]:
        try:
            if self.kind == "core-command":
                return self.core(store)
            return self.component(store, argv)
        except wasmtime.ExitTrap as error:
            return error.code or 0, ""
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            return 134, str(error)

    def core(self, store: wasmtime.Store) -> tuple[int, str]:
        linker = wasmtime.Linker(self.engine)
        linker.define_wasi()
        for name, module in self.libraries.items():
            linker.define_module(store, name, module)
        linker.instantiate(store, self.program).exports(store)["_start"](store)  # type: ignore[operator]  # a function
        return 0, ""

    def component(self, store: wasmtime.Store, argv: list[str]) -> tuple[int, str]:
        linker: Any = components.Linker(self.engine)
        linker.add_wasip2()
        with linker.root() as root, root.add_instance("jubako:guest/tools") as tools:
            tools.add_func("call", tool)
        instance: Any = linker.instantiate(store, self.program)
        if self.kind == "component-python":
            return instance.get_func(store, "run")(store, argv), ""
        place = instance.get_export_index(store, "wasi:cli/run@0.2.0")
        index = instance.get_export_index(store, "run", place)
        instance.get_func(store, index)(store)
        return 0, ""


def collector(kept: bytearray, room: int) -> Any:
    def take(data: Any) -> int:
        if len(kept) + len(data) > room:
            return -errno.ENOSPC
        kept.extend(bytes(data))
        return len(data)

    return take


if __name__ == "__main__":
    given = json.load(sys.stdin)
    runner = Runner(given)
    sys.stdout.write(json.dumps([runner.run(case) for case in given["cases"]]))
    sys.stdout.flush()
    os._exit(0)
