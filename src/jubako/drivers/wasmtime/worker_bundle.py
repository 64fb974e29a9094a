"""The worker as one file for the jail's interpreter, and its command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from jubako.drivers.wasmtime.engine import SETTINGS
from jubako.guest import LauncherConfig, bundle_program
from jubako.jail.bubblewrap import OWN_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jubako.drivers.wasmtime.artifacts import Program

__all__ = ["LIBRARY", "WORKER", "bundle_worker", "file_name", "library_name", "worker_launcher"]

LIBRARY: Final = "libwasmtime.so"
WORKER: Final = "worker.pyc"
_HERE: Final = Path(__file__).resolve().parent / "worker"
_FORKS: Final = Path(__file__).resolve().parents[2] / "agent" / "launchers" / "forks.py"


def bundle_worker(python: str) -> bytes:
    """Return the worker's code for ``python``. Raises LaunchError."""
    paths = [*sorted(_HERE.glob("*.py")), _FORKS]
    return bundle_program("worker", {path.stem: path.read_text(encoding="utf-8") for path in paths}, python)


def file_name(program: Program) -> str:
    """Return the name under which a program's file lies inside."""
    return f"{program.digest[:32]}.cwasm"


def library_name(path: Path) -> str:
    """Return the name under which a module that programs import from lies inside."""
    return f"library-{path.name}"


def worker_launcher(
    python: str, programs: Mapping[str, tuple[Sequence[str], Program]], settings: Mapping[str, object]
) -> LauncherConfig:
    """Return what makes the agent start the worker, which then runs every program of the sandbox.

    Args:
        python: The jail's interpreter.
        programs: Under any key: the names that programs are called by, and the precompiled program.
        settings: As the plan has them, by the names that the worker knows.
    """
    words = [f"library={OWN_DIRECTORY}/{LIBRARY}"]
    words += [f"engine={name}:{value}" for name, value in SETTINGS]
    for names, program in programs.values():
        parts = [f"{OWN_DIRECTORY}/{file_name(program)}"]
        parts += [f"{name}@{OWN_DIRECTORY}/{library_name(path)}" for name, path in program.libraries]
        words.append(f"program={','.join(names)}:{program.kind}:{','.join(parts)}")
    for name, value in settings.items():
        values = cast("list[object]", value) if isinstance(value, list) else [value]
        words += [f"{name}={item}" for item in values]
    return LauncherConfig(
        argv=(python, "-I", "-S", "-B", f"{OWN_DIRECTORY}/{WORKER}", *words),
        everything=True,
    )
