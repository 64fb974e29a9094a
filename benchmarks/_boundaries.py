"""The same work behind every boundary, each beside its raw tool."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from _measure import Case, Contestant, timed
from _processes import children, proportional_mib
from _runsc import RawRunsc
from _wasm import RawWasm, monty
from jubako import Sandbox
from jubako.boundary.registry import DriverRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from _rivals import Rivals
    from jubako.boundary.contract import ProbeReport

__all__ = ["BOUNDARY_KEYS", "Boundaries"]

BOUNDARY_KEYS: Final = ("cold", "live", "warm", "pandas", "idle", "cpu", "calls")
"""The names of these cases, in the order of the table."""

_CODE: Final = "print(6 * 7)"
_ANSWER: Final = b"42\n"
_PANDAS: Final = "import pandas; print(int(pandas.DataFrame({'a': [6, 36]})['a'].sum()))"
_MODULES: Final = ("numpy", "pandas")
_LOOP: Final = (
    "import time\n"
    "def work():\n"
    "    total = 0\n"
    "    for number in range(2_000_000): total += number & 7\n"
    "    return total\n"
    "start = time.perf_counter(); total = work()\n"
    "print(total, (time.perf_counter() - start) * 1000)\n"
)
_CALLS: Final = (
    "import os, time\n"
    "open('file', 'w').write('x' * 100)\n"
    "start = time.perf_counter(); total = 0\n"
    "for number in range(3000):\n"
    "    handle = os.open('file', os.O_RDONLY)\n"
    "    total += len(os.read(handle, 200)) + os.fstat(handle).st_size\n"
    "    os.close(handle)\n"
    "print(total, (time.perf_counter() - start) * 1000)\n"
)


class Boundaries:
    """Builds the cases of what works on this machine; what they hold open is closed with ``stack``."""

    def __init__(self, rivals: Rivals, stack: ExitStack, scratch: Path) -> None:
        self._rivals = rivals
        self._stack = stack
        self._host = [rivals.python, "-c"]
        self._scratch = scratch
        found = {kind: report for kind, report in _reports().items() if report.available}
        self._kinds = tuple(found)
        self._runsc = None
        if "gvisor" in found:
            program = str(found["gvisor"].facts["runsc.path"])
            self._runsc = RawRunsc(program, str(found["gvisor"].facts["runsc.platform"]), scratch)
        self._wasm = RawWasm(scratch) if "wasm" in found else None

    def build(self, key: str) -> list[Case]:
        """Return the cases under one key."""
        return {
            "cold": self._cold,
            "live": self._live,
            "warm": partial(self._restored, "first Python result", _CODE, ()),
            "pandas": partial(self._restored, "first pandas result", _PANDAS, _MODULES),
            "idle": self._idle,
            "cpu": partial(self._slowed, "cpu", "2 million rounds of a Python loop", _LOOP),
            "calls": partial(self._slowed, "calls", "3000 times open, read, stat and close", _CALLS),
        }[key]()

    # A fresh sandbox.

    def _cold(self) -> list[Case]:
        return [self._cold_behind(kind) for kind in self._kinds]

    def _cold_behind(self, kind: str) -> Case:
        ours = Contestant(f"jubako, {kind}", partial(_first_result, kind))
        name, raw = self._raw(kind)
        return Case(
            "cold",
            f"first Python result in a fresh sandbox, {kind}",
            (ours, Contestant(name, partial(_checked, raw))),
            baseline=name,
            subject=ours.name,
            target=2.0 if kind == "process" else 1.3,
            rounds=0.5,
            warmups=2,
        )

    def _raw(self, kind: str) -> tuple[str, Callable[[], bytes]]:
        """Return the raw tool of a boundary: its name, and what runs the code with it from nothing."""
        if kind == "gvisor" and self._runsc is not None:
            return "raw runsc run", partial(self._runsc.run, [*self._host, _CODE])
        if kind == "wasm" and self._wasm is not None:
            return "raw wasmtime-py", partial(self._wasm.run, _CODE)
        return "raw bwrap", partial(_output, self._rivals.raw([*self._host, _CODE]))

    # A sandbox that is there.

    def _live(self) -> list[Case]:
        cases = []
        for kind in self._kinds:
            box = self._stack.enter_context(Sandbox(boundary=kind))
            ours = Contestant(f"jubako, {kind}", partial(_checked, lambda box=box: box.run(_CODE).stdout_bytes))
            rivals = self._raw_live(kind)
            cases.append(
                Case(
                    "live",
                    f"further Python start in a live sandbox, {kind}",
                    (ours, *rivals),
                    baseline=rivals[0].name,
                    subject=ours.name,
                    target=1.3,
                    warmups=3,
                )
            )
        return cases

    def _raw_live(self, kind: str) -> list[Contestant]:
        if kind == "gvisor" and self._runsc is not None:
            runsc = self._runsc
            name, _ = self._stack.enter_context(runsc.answering())
            argv = [*self._host, _CODE]
            return [Contestant("raw runsc exec", partial(_checked, lambda: runsc.exec(name, argv)))]
        if kind == "wasm" and self._wasm is not None:
            _, run = self._stack.enter_context(self._wasm.living())
            found = [Contestant("raw wasmtime-py, same process", partial(_checked, partial(run, _CODE)))]
            subset = self._stack.enter_context(monty())
            if subset is not None:
                found.append(
                    Contestant("pydantic-monty (a subset of Python)", partial(_checked, partial(subset, "6*7")))
                )
            return found
        return [Contestant("host python3", partial(_checked, partial(_output, [*self._host, _CODE])))]

    # From a snapshot.

    def _restored(self, title: str, code: str, modules: tuple[str, ...]) -> list[Case]:
        key = "pandas" if modules else "warm"
        if modules and subprocess.run([*self._host, "import pandas"], capture_output=True, check=False).returncode:
            print("benchmarks: no pandas for the host's python3, so nothing is measured with it", file=sys.stderr)
            return []
        return [
            *([self._forked(key, title, code, modules)] if "process" in self._kinds and modules else []),
            *([self._gvisor_restored(key, title, code, modules)] if self._runsc is not None else []),
        ]

    def _forked(self, key: str, title: str, code: str, modules: tuple[str, ...]) -> Case:
        box = self._stack.enter_context(Sandbox(boundary="process", preload=modules))
        _checked(lambda: box.run(code).stdout_bytes)
        cold = Contestant("jubako, cold sandbox", partial(_first_result, "process", code))
        warm = Contestant("jubako, preloaded in a live sandbox", partial(_checked, lambda: box.run(code).stdout_bytes))
        raw = Contestant("raw bwrap", partial(_checked, partial(_output, self._rivals.raw([*self._host, code]))))
        return Case(key, f"{title}, process", (warm, cold, raw), baseline=cold.name, rounds=0.3)

    def _gvisor_restored(self, key: str, title: str, code: str, modules: tuple[str, ...]) -> Case:
        assert self._runsc is not None
        runsc, image = self._runsc, self._runsc.checkpoint(*modules)
        with Sandbox(boundary="gvisor", preload=modules or ("json",)) as box:
            box.run(code)
            snapshot = box.snapshot().id

        def restored() -> float:
            start = time.perf_counter()
            with Sandbox.restore(snapshot) as child:
                said = child.run(code).stdout_bytes
                elapsed = (time.perf_counter() - start) * 1000
            _expect(said)
            return elapsed

        def raw() -> float:
            start = time.perf_counter()
            with runsc.restored(image, *modules) as talker:
                said = talker.ask(code)
                elapsed = (time.perf_counter() - start) * 1000
            _expect(said)
            return elapsed

        cold = Contestant("jubako, cold sandbox", partial(_first_result, "gvisor", code))
        return Case(
            key,
            f"{title}, gvisor",
            (
                Contestant("jubako, restored", restored),
                cold,
                Contestant("raw runsc restore", raw),
                Contestant("raw runsc run", partial(_checked, partial(runsc.run, [*self._host, code]))),
            ),
            baseline=cold.name,
            subject="jubako, restored",
            target=0.25 if modules else None,
            rounds=0.3,
        )

    # What it costs.

    def _idle(self) -> list[Case]:
        ours = [Contestant(f"jubako, {kind}", partial(_idle_memory, kind)) for kind in self._kinds]
        raw: list[Contestant] = []
        if self._runsc is not None:
            raw.append(Contestant("raw runsc, a waiting Python", self._runsc_memory))
        if self._wasm is not None:
            raw.append(Contestant("raw wasmtime-py, after one run", self._wasm_memory))
        return [Case("idle", "memory of an idle sandbox (PSS of all its processes)", (*ours, *raw), "MiB", rounds=0.2)]

    def _runsc_memory(self) -> float:
        assert self._runsc is not None
        before = children()
        with self._runsc.answering():
            return proportional_mib(children() - before)

    def _wasm_memory(self) -> float:
        assert self._wasm is not None
        with self._wasm.living() as (pid, run):
            _expect(run(_CODE))
            return proportional_mib({pid})

    def _slowed(self, key: str, title: str, code: str) -> list[Case]:
        """Return the case of work that a program times by itself, inside."""
        workspace = self._scratch / "host-workspace"
        workspace.mkdir(exist_ok=True)
        host = Contestant("host python3", lambda: _said(_output([*self._host, code], cwd=workspace)))
        inside = []
        for kind in self._kinds:
            box = self._stack.enter_context(Sandbox(boundary=kind))
            inside.append(Contestant(kind, lambda box=box: _said(box.run(code).stdout_bytes)))
        return [Case(key, title, (*inside, host), baseline=host.name, rounds=0.3)]


def _reports() -> dict[str, ProbeReport]:
    registry = DriverRegistry()
    return {
        kind: anyio.run(registry.load(name).probe)
        for kind, name in (("process", "bwrap"), ("gvisor", "runsc"), ("wasm", "wasmtime"))
    }


def _expect(said: bytes) -> None:
    if said != _ANSWER:
        msg = f"expected {_ANSWER!r}, got {said[:80]!r}"
        raise RuntimeError(msg)


def _checked(work: Callable[[], bytes]) -> float:
    return timed(lambda: _expect(work()))


def _said(text: bytes) -> float:
    """Return the milliseconds that a program measured by itself."""
    return float(text.split()[1])


def _output(argv: Sequence[str], cwd: Path | None = None) -> bytes:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120, cwd=cwd).stdout


def _first_result(kind: str, code: str = _CODE) -> float:
    start = time.perf_counter()
    with Sandbox(boundary=kind) as box:
        said = box.run(code).stdout_bytes
        elapsed = (time.perf_counter() - start) * 1000
    _expect(said)
    return elapsed


def _idle_memory(kind: str) -> float:
    before = children()
    with Sandbox(boundary=kind) as box:
        _expect(box.run(_CODE).stdout_bytes)
        return proportional_mib(children() - before)
