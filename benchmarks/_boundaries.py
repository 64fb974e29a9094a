"""The same work behind every boundary, each beside its raw tool."""

from __future__ import annotations

import os
import shutil
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
from jubako.boundary.contract import Feature
from jubako.boundary.registry import BUILT_IN, DriverRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from _rivals import Rivals
    from jubako.boundary.contract import ProbeReport

__all__ = ["BOUNDARY_KEYS", "Boundaries"]

BOUNDARY_KEYS: Final = ("cold", "live", "warm", "pandas", "idle", "cpu", "calls")
"""The names of these cases, in the order of the table."""

_TARGET: Final = 1.3
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
    "with open('file', 'w') as file: file.write('x' * 100)\n"
    "start = time.perf_counter(); total = 0\n"
    "for number in range(3000):\n"
    "    handle = os.open('file', os.O_RDONLY)\n"
    "    total += len(os.read(handle, 200)) + os.fstat(handle).st_size\n"
    "    os.close(handle)\n"
    "print(total, (time.perf_counter() - start) * 1000)\n"
)


class Boundaries:
    """Builds the cases of what works on this machine."""

    def __init__(self, rivals: Rivals, scratch: Path) -> None:
        self._rivals = rivals
        self._host = [rivals.python, "-c"]
        self._scratch = scratch
        found = {kind: report for kind, report in _reports().items() if report.available}
        self._kinds = tuple(found)
        self._runsc: RawRunsc | None = None
        self._restores = False
        if "gvisor" in found:
            facts = found["gvisor"].facts
            self._runsc = RawRunsc(_runsc_program(), str(facts["runsc.platform"]), scratch)
            self._restores = Feature.SNAPSHOT in found["gvisor"].features
        self._wasm = RawWasm(scratch) if "wasm" in found else None

    def build(self, key: str, stack: ExitStack) -> list[Case]:
        """Return the cases under one key. What they hold open is closed with ``stack``."""
        builders: dict[str, Callable[[ExitStack], list[Case]]] = {
            "cold": self._cold,
            "live": self._live,
            "warm": partial(self._warm, "warm", _CODE, ()),
            "pandas": partial(self._warm, "pandas", _PANDAS, _MODULES),
            "idle": self._idle,
            "cpu": partial(self._slowed, "cpu", "2 million rounds of a Python loop", _LOOP, b"7000000"),
            "calls": partial(self._slowed, "calls", "3000 times open, read, stat and close", _CALLS, b"600000"),
        }
        return builders[key](stack)

    # A fresh sandbox.

    def _cold(self, _: ExitStack) -> list[Case]:
        return [self._cold_behind(kind) for kind in self._kinds]

    def _cold_behind(self, kind: str) -> Case:
        ours = Contestant("jubako: first result", partial(_first_result, kind, _CODE))
        life = Contestant("jubako: until nothing is left", partial(timed, partial(_first_result, kind, _CODE)))
        name, raw = self._raw(kind, _CODE)
        return Case(
            "cold",
            f"first Python result in a fresh sandbox, {kind}",
            (ours, life, Contestant(name, partial(_checked, raw))),
            baseline=name,
            subject=ours.name,
            target=2.0 if kind == "process" else _TARGET,
            rounds=0.5,
            warmups=2,
        )

    def _raw(self, kind: str, code: str) -> tuple[str, Callable[[], bytes]]:
        """Return the raw tool of a boundary: its name, and what runs code with it from nothing to its end."""
        if kind == "gvisor" and self._runsc is not None:
            return "raw runsc run", self._runsc.program([*self._host, code])
        if kind == "wasm" and self._wasm is not None:
            return "raw wasmtime-py", partial(self._wasm.run, code)
        return "raw bwrap", partial(_output, self._rivals.raw([*self._host, code]))

    # A sandbox that is there.

    def _live(self, stack: ExitStack) -> list[Case]:
        return [self._live_behind(kind, stack) for kind in self._kinds]

    def _live_behind(self, kind: str, stack: ExitStack) -> Case:
        ours = _run("jubako: run()", stack.enter_context(Sandbox(boundary=kind)), _CODE)
        rivals = self._raw_live(kind, stack)
        return Case(
            "live",
            f"further Python start in a live sandbox, {kind}",
            (ours, *rivals),
            baseline=rivals[0].name,
            subject=ours.name,
            target=_TARGET,
            warmups=3,
        )

    def _raw_live(self, kind: str, stack: ExitStack) -> list[Contestant]:
        if kind == "gvisor" and self._runsc is not None:
            name, _ = stack.enter_context(self._runsc.answering())
            work = partial(self._runsc.exec, name, [*self._host, _CODE])
            return [Contestant("raw runsc exec", partial(_checked, work))]
        host = Contestant("host python3", partial(_checked, partial(_output, [*self._host, _CODE])))
        if kind == "wasm" and self._wasm is not None:
            _, run = stack.enter_context(self._wasm.living())
            _, forked = stack.enter_context(self._wasm.living(forks=True))
            found = [
                Contestant("raw wasmtime-py, same process", partial(_checked, partial(run, _CODE))),
                Contestant("raw wasmtime-py, a fork each", partial(_checked, partial(forked, _CODE))),
                host,
            ]
            expression = stack.enter_context(monty())
            if expression is not None:
                subset = Contestant("pydantic-monty, a subset", partial(_checked, partial(expression, "6 * 7")))
                found.append(subset)
            return found
        return [host]

    # What has the modules already.

    def _warm(self, key: str, code: str, modules: tuple[str, ...], stack: ExitStack) -> list[Case]:
        if modules and not self._importable(modules):
            return []
        kinds = [kind for kind in self._kinds if kind != "wasm"]  # it has no modules but its own
        return [self._warm_behind(kind, key, code, modules, stack) for kind in kinds]

    def _importable(self, modules: Sequence[str]) -> bool:
        """Return whether the sandbox's Python has the modules; say so where it hasn't."""
        line = f"import {', '.join(modules)}"
        if subprocess.run([*self._host, line], capture_output=True, check=False).returncode == 0:
            return True
        print(f"benchmarks: {self._host[0]} can't `{line}`: nothing is measured with it", file=sys.stderr)
        return False

    def _warm_behind(self, kind: str, key: str, code: str, modules: tuple[str, ...], stack: ExitStack) -> Case:
        what = "pandas" if modules else "Python"
        preload = modules or ("json",)
        box = stack.enter_context(Sandbox(boundary=kind, preload=preload))
        cold = Contestant("jubako: cold", partial(_first_result, kind, code))
        name, raw = self._raw(kind, code)
        contestants = [
            cold,
            _run("jubako: preloaded, live sandbox", box, code),
            Contestant(name, partial(_checked, raw)),
        ]
        restored = self._restored(code, modules, preload) if kind == "gvisor" else []
        return Case(
            key,
            f"first {what} result, cold and warm, {kind}",
            (*restored, *contestants),
            baseline=cold.name,
            subject=restored[0].name if restored else None,
            target=0.25 if restored and modules else None,
            rounds=0.3,
        )

    def _restored(self, code: str, modules: tuple[str, ...], preload: Sequence[str]) -> list[Contestant]:
        """Return who goes on from a snapshot; jubako is the first."""
        if self._runsc is None or not self._restores:
            print("benchmarks: gVisor here has no snapshots: nothing is restored", file=sys.stderr)
            return []
        runsc = self._runsc
        runsc.checkpoint(*modules)
        with Sandbox(boundary="gvisor", preload=preload) as box:
            _expect(box.run(code).stdout_bytes)
            snapshot = box.snapshot()

        def ours() -> float:
            start = time.perf_counter()
            with Sandbox.restore(snapshot) as child:
                said = child.run(code).stdout_bytes
                elapsed = (time.perf_counter() - start) * 1000
            _expect(said)
            return elapsed

        def raw() -> float:
            start = time.perf_counter()
            with runsc.restored(*modules) as talker:
                said = talker.ask(code)
                elapsed = (time.perf_counter() - start) * 1000
            _expect(said)
            return elapsed

        return [Contestant("jubako: restored", ours), Contestant("raw runsc restore", raw)]

    # What it costs.

    def _idle(self, _: ExitStack) -> list[Case]:
        contestants = [Contestant(f"jubako: {kind}", partial(_idle_memory, kind)) for kind in self._kinds]
        if self._runsc is not None:
            contestants.append(Contestant("raw runsc, a waiting Python", partial(_idle_runsc, self._runsc)))
        if self._wasm is not None:
            contestants.append(Contestant("raw wasmtime-py, after one run", partial(_idle_wasm, self._wasm)))
        title = "memory of an idle sandbox that has run something (PSS)"
        return [Case("idle", title, tuple(contestants), "MiB", rounds=0.2)]

    def _slowed(self, key: str, title: str, code: str, answer: bytes, stack: ExitStack) -> list[Case]:
        """Return the case of work that a program times by itself, inside."""
        workspace = self._scratch / "host-workspace"
        workspace.mkdir(exist_ok=True)
        host = Contestant("host python3", lambda: _said(_output([*self._host, code], cwd=workspace), answer))
        inside = []
        for kind in self._kinds:
            box = stack.enter_context(Sandbox(boundary=kind))
            name, raw = self._raw(kind, code)
            inside.append(Contestant(f"jubako: {kind}", partial(_said_inside, box, code, answer)))
            inside.append(Contestant(name, partial(_said_by, raw, answer)))
        return [Case(key, title, (*inside, host), baseline=host.name, rounds=0.3)]


def _reports() -> dict[str, ProbeReport]:
    registry = DriverRegistry()
    return {str(entry.boundary): anyio.run(registry.load(entry.name).probe) for entry in BUILT_IN}


def _runsc_program() -> str:
    return shutil.which(os.environ.get("JUBAKO_RUNSC") or "runsc") or "runsc"


def _expect(said: bytes) -> None:
    if said != _ANSWER:
        msg = f"expected {_ANSWER!r}, got {said[:80]!r}"
        raise RuntimeError(msg)


def _checked(work: Callable[[], bytes]) -> float:
    return timed(lambda: _expect(work()))


def _run(name: str, box: Sandbox, code: str) -> Contestant:
    return Contestant(name, partial(_checked, lambda: box.run(code).stdout_bytes))


def _said(text: bytes, answer: bytes) -> float:
    """Return the milliseconds that a program measured by itself, when its answer is right."""
    total, _, milliseconds = text.partition(b" ")
    if total != answer:
        msg = f"expected {answer!r}, got {text[:80]!r}"
        raise RuntimeError(msg)
    return float(milliseconds)


def _said_inside(box: Sandbox, code: str, answer: bytes) -> float:
    return _said(box.run(code).stdout_bytes, answer)


def _said_by(work: Callable[[], bytes], answer: bytes) -> float:
    return _said(work(), answer)


def _output(argv: Sequence[str], cwd: Path | None = None) -> bytes:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120, cwd=cwd).stdout


def _first_result(kind: str, code: str) -> float:
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


def _idle_runsc(runsc: RawRunsc) -> float:
    before = children()
    with runsc.answering() as (_, talker):
        _expect(talker.ask(_CODE))
        return proportional_mib(children() - before)


def _idle_wasm(wasm: RawWasm) -> float:
    with wasm.living() as (pid, run):
        _expect(run(_CODE))
        return proportional_mib({pid})
