"""Guest text made fit for a person's eyes."""

from __future__ import annotations

from typing import Final

__all__ = ["printable"]

_LONGEST: Final = 512


def printable(text: str) -> str:
    """Return guest text cut and with everything escaped that could steer a terminal or a page's direction."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:_LONGEST])
