"""Files that were built once and are verified before every use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ArtifactCache"]


@dataclass(frozen=True, slots=True)
class ArtifactCache:
    """The private directory of built files: ``$XDG_CACHE_HOME/jubako/wasm`` unless told otherwise."""

    directory: Path | None = None
