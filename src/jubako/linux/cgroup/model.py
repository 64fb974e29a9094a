"""Values of the cgroup interface: what can be limited, by which mechanism, and what was verified."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jubako.boundary.contract import Reason

__all__ = [
    "COUNTED",
    "Ability",
    "CgroupSupport",
    "CgroupUsage",
    "Hierarchy",
    "LimitResult",
    "Limits",
    "Mechanism",
    "Place",
]


class Mechanism(StrEnum):
    """Who holds a limit: a v1 or v2 group made by us, or a scope of the systemd user manager."""

    SYSTEMD = "systemd"
    V1 = "v1"
    V2 = "v2"


class Ability(StrEnum):
    """What a group can do; the first five are limits."""

    MEMORY = "memory"
    SWAP = "swap"
    PROCESSES = "processes"
    CPU = "cpu"
    IO = "io"
    FREEZE = "freeze"
    KILL = "kill"


COUNTED: Final[Mapping[str, str]] = {"memory": "resource.memory", "pids": "resource.processes"}
"""Controllers whose limit hits the kernel counts, with the control that they stand for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one group; None leaves that one alone. Bytes, counts, CPUs' worth of time, bytes a second."""

    memory: int | None = None
    swap: int | None = None
    processes: int | None = None
    cpus: float | None = None
    io_bytes_per_second: int | None = None

    def wanted(self) -> dict[Ability, float]:
        """Return the limits that are set."""
        values = {
            Ability.MEMORY: self.memory,
            Ability.SWAP: self.swap if self.memory is not None else None,
            Ability.PROCESSES: self.processes,
            Ability.CPU: self.cpus,
            Ability.IO: self.io_bytes_per_second,
        }
        return {ability: value for ability, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One tree mounted at ``point``: groups are made in ``base``/jubako. ``controllers`` are those usable there."""

    version: int
    base: str
    controllers: frozenset[str]
    point: str


@dataclass(frozen=True, slots=True)
class Place:
    """The directory in which one controller of one group lives."""

    version: int
    path: str


@dataclass(frozen=True, slots=True)
class CgroupSupport:
    """What groups can do on this machine for this user: each ability's mechanism, or the reason for none."""

    how: Mapping[Ability, Mechanism]
    reasons: Mapping[Ability, Reason]
    hierarchies: tuple[Hierarchy, ...] = ()
    disks: tuple[str, ...] = field(default=())

    def mechanism(self, ability: Ability) -> Mechanism | None:
        """Return how ``ability`` is met here, or None."""
        return self.how.get(ability)


@dataclass(frozen=True, slots=True)
class LimitResult:
    """One limit as it was asked for and as the kernel reads it back; ``error`` is empty when they agree."""

    ability: Ability
    wanted: str
    seen: str
    mechanism: Mechanism | None
    error: str = ""

    @property
    def verified(self) -> bool:
        """Whether the kernel holds what was asked for."""
        return self.mechanism is not None and not self.error


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """What a group has used; seconds, bytes, counts. None where the kernel does not tell."""

    cpu_seconds: float | None
    memory: int | None
    memory_peak: int | None
    processes: int | None
