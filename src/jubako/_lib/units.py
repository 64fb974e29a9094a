"""Sizes and times as people write them."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["format_seconds", "format_size", "parse_seconds", "parse_size"]

_SIZES: Final = {
    "": 1, "B": 1, "K": 1024, "KIB": 1024, "M": 1024**2, "MIB": 1024**2, "G": 1024**3, "GIB": 1024**3,
    "T": 1024**4, "TIB": 1024**4, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4,
}  # fmt: skip
_TIMES: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER: Final = re.compile(r"^\s*([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*([A-Za-z]{0,3})\s*$")


def parse_size(value: object) -> object:
    """Return bytes for strings such as ``512MiB`` or ``1.5 GB``; other types pass through unchanged."""
    if not isinstance(value, str):
        return value
    match = _NUMBER.match(value)
    if match is None or match[2].upper() not in _SIZES:
        msg = f"{value!r} is not a size; write bytes or a number with KiB, MiB, GiB, kB, MB or GB"
        raise ValueError(msg)
    unit = _SIZES[match[2].upper()]
    return round(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def parse_seconds(value: object) -> object:
    """Return seconds for strings such as ``90s``, ``5m`` or ``250ms``; other types pass through unchanged."""
    if not isinstance(value, str):
        return value
    match = _NUMBER.match(value)
    if match is None or match[2] not in _TIMES:
        msg = f"{value!r} is not a time; write seconds or a number with ms, s, m, h or d"
        raise ValueError(msg)
    return float(match[1]) * _TIMES[match[2]]


def format_size(count: int) -> str:
    """Return ``count`` bytes in the largest binary unit that keeps it at least 1."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def format_seconds(seconds: float) -> str:
    """Return a short reading of a time span: ``250 ms``, ``4.2 s``, ``5 min``, ``2 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
