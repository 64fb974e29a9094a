"""Resource limits of the session."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence, Tuple

_RLIMIT_NOFILE = 7
AGENT_FILES = 256
"""Descriptors below which a limit is given to programs only and not to the agent."""


def set_limits(values: Sequence[int]) -> List[Tuple[int, int, int]]:
    """Apply resource limits, given as kind, soft, hard, ...; return those meant for programs only."""
    import resource  # loaded while the host answered HELLO

    for_programs: List[Tuple[int, int, int]] = []
    for at in range(0, len(values) - 2, 3):
        kind, soft, hard = (_limit(value) for value in values[at : at + 3])
        old_hard = resource.getrlimit(kind)[1]
        if old_hard != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > old_hard):
            hard = old_hard
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            soft = hard
        if kind == _RLIMIT_NOFILE and 0 <= hard < AGENT_FILES:
            for_programs.append((kind, soft, hard))  # control: resource.open-files
        else:
            resource.setrlimit(kind, (soft, hard))
    return for_programs


def _limit(value: int) -> int:
    return -1 if value >= 2**63 else value
