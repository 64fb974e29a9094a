"""Programs of the WebAssembly boundary, built once and run without the boundary around them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from jubako.drivers.wasmtime.engine import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from jubako.drivers.wasmtime.artifacts import Program

_PROCESS = Path(__file__).with_name("wasm_process.py")


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    status: int
    trap: str
    stdout: str
    stderr: str
    seconds: float


class Bench:
    """Runs command lines of one program."""

    def __init__(self, program: Program, workspace: Path) -> None:
        self.program = program
        self.workspace = workspace

    def run(self, *argv: str, **options: Any) -> Ran:
        """Run one command line in the workspace."""
        return self.run_all([{"argv": list(argv), **options}])[0]

    def run_all(self, cases: Sequence[dict[str, Any]]) -> list[Ran]:
        """Run several, each in an instance of its own."""
        common = {"env": {"PWD": "/workspace", "HOME": "/workspace"}, "preopens": [[str(self.workspace), "/workspace"]]}
        job = {
            "settings": SETTINGS,
            "kind": self.program.kind,
            "cwasm": str(self.program.cwasm),
            "libraries": [[name, str(path)] for name, path in self.program.libraries],
            "cases": [{**common, **case} for case in cases],
        }
        done = subprocess.run(
            [sys.executable, str(_PROCESS)], input=json.dumps(job), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [Ran(**fields) for fields in json.loads(done.stdout)]


def bench(make: Callable[[], Awaitable[Program]], directory: Path, *packages: str) -> Bench:
    """Return a program, built if it is not yet, with a workspace below ``directory``; skip without its packages."""
    for package in ("wasmtime", *packages):
        pytest.importorskip(package, reason="the extra jubako[wasm] is not installed")
    workspace = directory / "workspace"
    workspace.mkdir()
    return Bench(anyio.run(make), workspace)
