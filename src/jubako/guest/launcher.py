"""Launchers: warm processes inside that start programs as forks of themselves.

Their text comes with the library and goes into the sandbox as an argument of the interpreter there,
because nothing of the library is inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from jubako.guest.config import LauncherConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["launcher_text", "preload_launcher"]

_LAUNCHERS: Final = Path(__file__).resolve().parent.parent / "agent" / "launchers"
_BOOT: Final = """\
import sys
def load(name, text):
    scope = {{"__name__": name}}
    exec(compile(text, "<" + name + ">", "exec"), scope)
    return scope
forks = load("launcher.forks", {forks!r})
program = load("launcher.program", {program!r})
program["main"](forks["serve"], forks["fail"], sys.argv[1:])
"""


def launcher_text(program: str) -> str:
    """Return what ``python3 -c`` runs to be a launcher, from the text of a module with its program.

    The module has a function ``main(serve, fail, arguments)``: ``serve(fd, run, check)`` and
    ``fail(fd, text)`` are those of ``jubako.agent.launchers.forks``; the last argument is the number of
    the descriptor that they want.
    """
    forks = (_LAUNCHERS / "forks.py").read_text(encoding="utf-8")
    return _BOOT.format(forks=forks, program=program)


def preload_launcher(modules: Sequence[str], *, python: str = "python3") -> LauncherConfig:
    """Return the launcher that imports ``modules`` and runs ``python3`` commands in its forks."""
    text = launcher_text((_LAUNCHERS / "preload.py").read_text(encoding="utf-8"))
    return LauncherConfig(argv=(python, "-c", text, *modules))
