"""What a containment probe is, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from jubako._lib.levels import Enforcement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["Finding", "Outside", "Place", "Probe", "ProbeResult", "ProbeRunReport", "Profile", "Verdict", "Wall"]


class Verdict(StrEnum):
    """What a probe says about its control."""

    CONTAINED = "contained"
    ESCAPED = "escaped"
    INCONCLUSIVE = "inconclusive"


class Place(StrEnum):
    """Where the positive control runs.

    ``HOST``: on the host as an ordinary user, also when the caller is root. ``CALLER``: on the host
    as the caller, for programs that only read or open. ``REFERENCE``: in a plain bubblewrap sandbox
    that lacks the named walls.
    """

    HOST = "host"
    CALLER = "caller"
    REFERENCE = "reference"


class Wall(StrEnum):
    """Walls that a reference sandbox can be built without. It never has a syscall filter or limits."""

    CAPABILITIES = "capabilities"
    DEVICES = "devices"
    HIDE = "hide"
    IPC = "ipc"
    MOUNTS = "mounts"
    NETWORK = "network"
    PROC = "proc"
    ROOT = "root"
    SHM = "shm"
    SYS = "sys"
    TMP = "tmp"
    WORKSPACE = "workspace"


class Profile(StrEnum):
    """Which policy the sandbox of a probe has."""

    DEFAULT = "default"
    TIGHT = "tight"
    SLOW = "slow"
    FILES = "files"
    BRIEF = "brief"
    TOOLS = "tools"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """How the positive control of a probe runs.

    Attributes:
        place: Where.
        without: The walls that a reference sandbox lacks.
        stage: A program that runs first in the same process and sets the scene.
        first: The stage is the first process of its pid namespace.
        arguments: Arguments that differ from those inside.
        leaky: Environment and descriptors are inherited.
        interpreter: Name of a value that holds the interpreter to run it with, instead of python3.
    """

    place: Place
    without: frozenset[Wall] = frozenset()
    stage: str = ""
    first: bool = False
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    leaky: bool = False
    interpreter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One hostile program, the control that must contain it, and how it is shown to work without.

    Attributes:
        name: Short name, unique below its control.
        control: Id of the control.
        title: What it tries, in a few words.
        program: Path of the program below ``programs/``.
        arguments: What the program is told; ``{name}`` is filled from the ground.
        outside: The positive control.
        scenario: Who plays the host's part; empty when the program does all by itself.
        profile: The sandbox's policy.
        alone: It may wreck its sandbox, so it gets one of its own.
        witness: What on the host tells of harm, besides the program's own words.
        death: Being ended by the sandbox counts as contained.
        claim: The least enforcement in the plan at which containment is promised.
        seconds: How long the program may take.
    """

    name: str
    control: str
    title: str
    program: str
    outside: Outside
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    scenario: str = ""
    profile: Profile = Profile.DEFAULT
    alone: bool = False
    witness: str = ""
    death: bool = False
    claim: Enforcement = Enforcement.PARTIAL
    seconds: float = 20.0

    @property
    def id(self) -> str:
        """``control/name``."""
        return f"{self.control}/{self.name}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one run of a program came to, with bounded printable evidence."""

    verdict: Verdict
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What came of one probe.

    ``inside`` and ``outside`` are evidence of the two runs; ``reason`` says why an inconclusive one
    is so; ``level`` is what the plan promises for the control.
    """

    id: str
    control: str
    title: str
    verdict: Verdict
    inside: str
    outside: str
    reason: str
    level: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRunReport:
    """A whole run of probes against one driver on this machine."""

    driver: str
    boundary: str
    version: str
    kernel: str
    uid: int
    started: datetime
    seconds: float
    complete: bool
    results: tuple[ProbeResult, ...]

    def count(self, verdict: Verdict) -> int:
        """Return how many probes came to ``verdict``."""
        return sum(1 for item in self.results if item.verdict is verdict)

    def of(self, verdict: Verdict) -> tuple[ProbeResult, ...]:
        """Return the results with ``verdict``, in the catalogue's order."""
        return tuple(item for item in self.results if item.verdict is verdict)

    @property
    def exit_status(self) -> int:
        """1 when anything escaped, 3 when a control has no probe that could be proven, else 0."""
        if self.count(Verdict.ESCAPED):
            return 1
        proven = {item.control for item in self.of(Verdict.CONTAINED)}
        return 0 if all(item.control in proven for item in self.results) else 3
