"""The hostile programs as they are sent inside: prelude, stage, program; no file is needed there."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Final

from jubako.errors import DriverUnavailableError
from jubako.linux.seccomp import current_arch, numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Sources"]

_WORD: Final = re.compile(r'"([a-z][a-z0-9_]{2,31})"')


class Sources:
    """Reads each program once; one object serves one run."""

    def __init__(self) -> None:
        self._root = resources.files("jubako.probes") / "programs"
        self._texts: dict[str, str] = {}
        self._numbers = _numbers()

    def text(self, name: str) -> str:
        """Return the text of a program file."""
        if name not in self._texts:
            self._texts[name] = self._root.joinpath(*name.split("/")).read_text("utf-8")
        return self._texts[name]

    def argv(
        self,
        program: str,
        arguments: Mapping[str, str],
        *,
        python: str = "python3",
        stage: str = "",
        native: bool = True,
    ) -> Sequence[str]:
        """Return the argument vector that runs ``program``, complete with its source.

        Without ``native`` it is for an interpreter that can't start programs: where that lacks what the
        program needs for its attempt, the attempt has failed.
        """
        words = [f"{key}={value}" for key, value in arguments.items()]
        body = (self.text(stage) if stage else "") + self.text(program)
        known = {word: self._numbers[word] for word in _WORD.findall(body) if word in self._numbers}
        source = self.text("prelude.py").replace("NR = {}\n", f"NR = {known}\n", 1) + (body if native else _bare(body))
        return [python, "-I", "-S", "-B", "-c", source, *words]


def _bare(body: str) -> str:
    return (
        f"try:\n    exec(compile({body!r}, 'probe', 'exec'))\n"
        "except ABSENT as error:\n    contained('no such thing inside: %s' % error)\n"
    )


def _numbers() -> Mapping[str, int]:
    try:
        return numbers(current_arch())
    except DriverUnavailableError:
        return {}
