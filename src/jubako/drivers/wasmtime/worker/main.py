"""The worker's start: load everything once, then a fork for each program."""

from __future__ import annotations

import os
import sys

from .capi import EngineError
from .programs import CannotRunError, Engine
from .run import run
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    forks: Any = None
else:
    from . import forks  # of the agent, bundled beside this one

_FD = "/proc/self/fd/%d"
_LIMITS = {"resource.memory": forks.MEMORY, "resource.open-files": forks.OPEN_FILES, "time.exec": forks.TIME}
_ENDS = {126: forks.END_NOT_EXECUTABLE, 127: forks.END_NOT_FOUND}


def _open_descriptors() -> list[int]:
    listing = os.open("/proc/self/fd", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return [int(name) for name in os.listdir(listing) if int(name) != listing and os.path.exists(_FD % int(name))]
    finally:
        os.close(listing)


def main() -> None:
    """Serve the agent; the last argument is the number of its socket."""
    fd = int(sys.argv[-1])
    try:
        engine = Engine(Settings(sys.argv[1:-1]))
    except (EngineError, OSError) as error:
        forks.fail(fd, "the WebAssembly worker can't start: " + str(error))
        return
    # The files of the programs: their memories are mapped from them at every start.
    kept = tuple(number for number in _open_descriptors() if number > 2 and number != fd)

    def check(argv: list[str], _env: dict[str, str]) -> tuple[int, str] | None:
        """Refuse at once what is no program; modules of the workspace are looked at by the fork."""
        if argv[0].endswith(".wasm"):
            return None
        try:
            engine.find(argv[0], "/")
        except CannotRunError as error:
            return _ENDS[error.code], error.text
        return None

    notes: list[Any] = []

    def start(argv: list[str], env: dict[str, str], cwd: str) -> int:
        outcome = run(engine, argv, env, cwd)
        limits = sum(_LIMITS[name] for name in outcome.limits)
        if limits:
            notes[-1](limits)
        if outcome.text:
            os.write(2, (argv[0][:200] + ": " + outcome.text + "\n").encode("utf-8", "replace"))
        # Threads of the library may still run, and must not see the interpreter end.
        os._exit(outcome.code)

    forks.serve(fd, start, check, kept, notes.append)
