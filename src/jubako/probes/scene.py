"""One probe about to run: its arguments, its command outside, its sandbox inside, and what the host saw."""

from __future__ import annotations

import os
import re
import secrets
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from jubako._lib.text import printable
from jubako.boundary.contract import BoundaryKind, Feature
from jubako.errors import JubakoError
from jubako.probes.model import Finding, Place, Verdict
from jubako.probes.outside import Command, Saw
from jubako.probes.reference import find_python

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jubako.probes.ground import Ground
    from jubako.probes.model import Probe
    from jubako.probes.reference import Reference
    from jubako.probes.sources import Sources
    from jubako.runtime import AsyncSandbox

__all__ = ["Scene", "Unprovable", "contained", "escaped", "find_tagged", "inconclusive", "judge", "new_tag"]

_NAME: Final = re.compile(r"\{([a-z0-9_]+)\}")
_EVIDENCE: Final = 300
_WORDS: Final = {b"ESCAPED": Verdict.ESCAPED, b"CONTAINED": Verdict.CONTAINED, b"INCONCLUSIVE": Verdict.INCONCLUSIVE}


class Unprovable(Exception):  # noqa: N818  # it is a finding, not a failure
    """This machine lacks what the probe needs; the text says what."""


def contained(evidence: str) -> Finding:
    """Return that finding."""
    return Finding(Verdict.CONTAINED, printable(evidence, _EVIDENCE))


def escaped(evidence: str) -> Finding:
    """Return that finding."""
    return Finding(Verdict.ESCAPED, printable(evidence, _EVIDENCE))


def inconclusive(evidence: str) -> Finding:
    """Return that finding."""
    return Finding(Verdict.INCONCLUSIVE, printable(evidence, _EVIDENCE))


def judge(saw: Saw) -> Finding:
    """Return what the program said in its last verdict line; how it ended, when it said nothing."""
    for line in reversed(saw.stdout.splitlines()):
        word, _, text = line.partition(b" ")
        if word in _WORDS:
            return Finding(_WORDS[word], printable(text, _EVIDENCE))
    end = "it ran over its time" if saw.timed_out else f"it ended with {saw.code}"
    said = printable((saw.stderr or saw.stdout)[-200:].strip(), 200)
    limits = f", limits {' '.join(sorted(saw.limits))}" if saw.limits else ""
    return inconclusive(f"no verdict: {end}{limits} {saw.message} {said}".strip())


def find_tagged(tag: str) -> dict[int, int]:
    """Return pid and user of the processes on this host whose command line holds ``tag``."""
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        name = folder.name
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with suppress(OSError):
            if tag.encode() in (folder / "cmdline").read_bytes():
                state = (folder / "stat").read_bytes().rpartition(b") ")[2][:1]
                if state not in b"ZX":
                    found[int(name)] = folder.stat().st_uid
    return found


def new_tag() -> str:
    """Return a word by which the processes of one run are known."""
    return f"probe-{secrets.token_hex(8)}"


@dataclass(slots=True)
class Scene:
    """Everything that one run of one probe needs. ``extra`` holds values of this run alone, such as a victim's pid."""

    probe: Probe
    ground: Ground
    sources: Sources
    reference: Reference | None
    box: AsyncSandbox | None = None
    neighbour: AsyncSandbox | None = None
    extra: dict[str, str] = field(default_factory=dict[str, str])
    tag: str = field(default_factory=new_tag)

    def fill(self, arguments: Mapping[str, str]) -> dict[str, str]:
        """Return the arguments with every ``{name}`` filled. Raises Unprovable where a value could not be had."""

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name == "tag":
                return self.tag
            for values in (self.extra, self.ground.values):
                if name in values:
                    return values[name]
            raise Unprovable(self.ground.missing.get(name, f"no {name} here"))

        return {key: _NAME.sub(value, text) for key, text in arguments.items()}

    def inside_argv(self) -> Sequence[str]:
        """Return the argument vector for the sandbox. Raises Unprovable."""
        return self.sources.argv(self.probe.program, self.fill(self.probe.arguments), native=self.native)

    def outside_command(self) -> Command:
        """Return the positive control's command. Raises Unprovable."""
        outside, ground = self.probe.outside, self.ground
        arguments = self.fill({**self.probe.arguments, **outside.arguments})
        python = ground.values[outside.interpreter] if outside.interpreter else find_python()
        argv = self.sources.argv(self.probe.program, arguments, python=python, stage=outside.stage)
        room = ground.fresh_room(f"{self.probe.name}-{secrets.token_hex(4)}")
        if outside.place is Place.REFERENCE:
            if self.reference is None:
                raise Unprovable("bubblewrap is not installed, so there is no reference sandbox")
            argv = self.reference.argv(argv, without=outside.without, first=outside.first)
        return Command(
            argv=argv,
            cwd=str(room),
            env={**os.environ} if outside.leaky else ground.environment,
            identity=None if outside.place is Place.CALLER else ground.identity,
            leaky=outside.leaky,
        )

    @property
    def native(self) -> bool:
        """Whether programs inside are machine code, which can start programs."""
        return str(Feature.PROCESSES) in self.sandbox.card().boundary.features

    @property
    def trail(self) -> str:
        """What the command lines of the sandbox's programs hold as the host sees them.

        Behind a kernel or runtime of its own, the host sees only the processes of the walls, which
        name the sandbox.
        """
        seen = self.box is None or self.sandbox.card().boundary.kind is BoundaryKind.PROCESS
        return self.tag if seen else self.sandbox.id

    @property
    def sandbox(self) -> AsyncSandbox:
        """The sandbox of this run."""
        assert self.box is not None  # noqa: S101  # the runner opens one for every inside run
        return self.box

    async def run_inside(self, argv: Sequence[str] | None = None) -> Saw:
        """Run the program (or another) in the sandbox to its end; a lost sandbox is an end too."""
        try:
            process = await self.sandbox.exec(argv or self.inside_argv(), timeout=self.probe.seconds)
            result = await process.result()
        except JubakoError as error:
            return Saw(stdout=b"", message=f"the sandbox ended ({error.code})")
        return Saw(
            stdout=result.stdout_bytes,
            stderr=result.stderr_bytes,
            code=result.exit_code if result.signal is None else -result.signal,
            timed_out=result.timed_out,
            truncated=result.truncated,
            limits=frozenset(result.limit_hits),
            message=result.message,
        )

    async def end_tagged(self) -> None:
        """End what a positive control left running on the host."""
        for pid in find_tagged(self.tag):
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                try:
                    # Looked at again through the descriptor's lifetime: the number can't have changed hands.
                    if pid in find_tagged(self.tag):
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                finally:
                    os.close(descriptor)

    async def wait_untagged(self, seconds: float) -> None:
        """Wait until a look finds no tagged process on the host, ``seconds`` at most."""
        with anyio.move_on_after(seconds):
            while find_tagged(self.trail):  # noqa: ASYNC110  # nobody tells of their end
                await anyio.sleep(0.02)

    async def seen(self, seconds: float) -> bool:
        """Whether a tagged process shows within ``seconds``: one look can miss those that fork all the time."""
        with anyio.move_on_after(seconds):
            while not find_tagged(self.trail):  # noqa: ASYNC110  # as above
                await anyio.sleep(0.02)
            return True
        return False
