"""Levels of enforcement and of requirement, shared by policy (L1) and the driver contract (L2)."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Enforcement", "Requirement"]


class Enforcement(StrEnum):
    """How far a control really holds."""

    ENFORCED = "enforced"
    PARTIAL = "partial"
    UNENFORCED = "unenforced"


class Requirement(StrEnum):
    """The least enforcement that a launch accepts for a control."""

    ENFORCED = "enforced"
    PARTIAL = "partial"
    OPTIONAL = "optional"

    @property
    def rank(self) -> int:
        """0 for optional, 1 for partial, 2 for enforced: larger is stricter."""
        return {"optional": 0, "partial": 1, "enforced": 2}[self.value]

    def accepts(self, level: Enforcement) -> bool:
        """Whether a control that holds to ``level`` is good enough."""
        return {"unenforced": 0, "partial": 1, "enforced": 2}[level.value] >= self.rank
