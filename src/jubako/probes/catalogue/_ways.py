"""Short forms of the ways in which a positive control runs."""

from __future__ import annotations

from typing import Final

from jubako.probes.model import Outside, Place, Wall

__all__ = ["BARE", "CALLER", "HOST", "POWERFUL", "lacking"]

HOST: Final = Outside(place=Place.HOST)
CALLER: Final = Outside(place=Place.CALLER)
BARE: Final = Outside(place=Place.REFERENCE)
"""A sandbox with every wall but the syscall filter."""
POWERFUL: Final = Outside(place=Place.REFERENCE, without=frozenset({Wall.CAPABILITIES}))
"""A sandbox whose program is root in a user namespace of its own."""


def lacking(*walls: Wall, stage: str = "", **arguments: str) -> Outside:
    """Return a reference sandbox without ``walls``, perhaps with a stage and other arguments."""
    return Outside(place=Place.REFERENCE, without=frozenset(walls), stage=stage, arguments=arguments)
