"""The raw ``wasmtime`` package as one would use it by hand: no jail, no limits, no record."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final, cast

import anyio

from jubako.drivers.wasmtime.artifacts import python_program
from jubako.drivers.wasmtime.engine import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["RawWasm", "monty"]

_SECONDS: Final = 120
_RAW: Final = r"""
import json, os, sys
import wasmtime
from wasmtime import _bindings, component

cwasm, workspace, settings, mode = json.loads(sys.argv[1])
config = wasmtime.Config()
for name, value in settings:
    getattr(_bindings, f"wasmtime_config_{name}_set")(config.ptr(), value)
engine = wasmtime.Engine(config)
program = component.Component.deserialize_file(engine, cwasm)


def run(code):
    linker = component.Linker(engine)
    linker.add_wasip2()
    with linker.root() as root, root.add_instance("jubako:guest/tools") as tools:
        tools.add_func("call", lambda store, name, arguments: "")
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1 << 60)
    said = []
    wasi = wasmtime.WasiConfig()
    wasi.env = [("PWD", "/workspace")]
    wasi.preopen_dir(workspace, "/workspace")
    wasi.stdout_custom = lambda data: said.append(bytes(data)) or len(data)
    wasi.inherit_stderr()
    store.set_wasi(wasi)
    instance = linker.instantiate(store, program)
    status = instance.get_func(store, "run")(store, ["python3", "-c", code])
    return status, b"".join(said)


def show(code):
    status, said = run(code)
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
    return status


if mode == "once":
    os._exit(show(sys.argv[2]))
for line in sys.stdin:
    code = json.loads(line)
    if mode == "stay":
        show(code)
    else:
        child = os.fork()
        if not child:
            os._exit(show(code))
        os.waitpid(child, 0)
os._exit(0)
"""


class RawWasm:
    """The same precompiled Python as jubako's, run by a script that uses the ``wasmtime`` package."""

    def __init__(self, scratch: Path) -> None:
        workspace = scratch / "wasm-workspace"
        workspace.mkdir(exist_ok=True)
        program = anyio.run(python_program)
        self._told = (str(program.cwasm), str(workspace), SETTINGS)

    def _command(self, mode: str) -> list[str]:
        return [sys.executable, "-c", _RAW, json.dumps([*self._told, mode])]

    def run(self, code: str) -> bytes:
        """Return what the code prints, in a process of its own. Raises RuntimeError when it fails."""
        done = subprocess.run(
            [*self._command("once"), code], stdin=subprocess.DEVNULL, capture_output=True, check=False,
            timeout=_SECONDS,
        )  # fmt: skip
        if done.returncode:
            msg = f"wasmtime: status {done.returncode} {done.stderr[-200:]!r}"
            raise RuntimeError(msg)
        return done.stdout

    @contextmanager
    def living(self, *, forks: bool = False) -> Iterator[tuple[int, Callable[[str], bytes]]]:
        """Yield the pid of a process that has everything loaded, and what runs code in a fresh instance there.

        With ``forks``, each instance is in a process of its own, which ends with it.
        """
        with subprocess.Popen(
            self._command("forks" if forks else "stay"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as process:
            stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
            watchdog = threading.Timer(_SECONDS, process.kill)
            watchdog.start()

            def run(code: str) -> bytes:
                stdin.write(json.dumps(code).encode() + b"\n")
                return stdout.readline()

            try:
                yield process.pid, run
            finally:
                watchdog.cancel()
                stdin.close()
                process.wait(10)


@contextmanager
def monty() -> Iterator[Callable[[str], bytes] | None]:
    """Yield what runs an expression in a fresh worker of pydantic-monty, a subset of Python; None without it."""
    if importlib.util.find_spec("pydantic_monty") is None:
        yield None
        return
    import pydantic_monty  # type: ignore[import-not-found, unused-ignore]  # a rival that need not be there

    with pydantic_monty.Monty() as pool:

        def run(expression: str) -> bytes:
            with pool.checkout() as session:
                return f"{session.feed_run(expression)}\n".encode()

        yield run
