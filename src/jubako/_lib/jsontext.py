"""Canonical JSON: one value, one text. Digests and chains are computed over it."""

from __future__ import annotations

import hashlib
import json
from typing import Final, cast

__all__ = ["canonical", "digest", "parse_object"]

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_DECODER: Final = json.JSONDecoder()


def canonical(value: object) -> bytes:
    """Return the one ASCII spelling of ``value``: sorted keys, no spaces. Raises ValueError for NaN and cycles."""
    return _ENCODER.encode(value).encode("ascii")


def digest(value: object) -> str:
    """Return ``sha256:`` and the hexadecimal digest of the canonical text."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


def parse_object(text: bytes) -> dict[str, object]:
    """Return the JSON object in ``text``. Raises ValueError for anything else, too deep nesting included."""
    try:
        value = _DECODER.decode(text.decode("utf-8"))
    except RecursionError:
        msg = "nested too deeply"
        raise ValueError(msg) from None
    if not isinstance(value, dict):
        msg = "not a JSON object"
        raise ValueError(msg)  # noqa: TRY004  # the text is wrong, not the caller's type
    return cast("dict[str, object]", value)
