"""Ids that sort by time: UUID version 7 (RFC 9562), the sub-millisecond part in ``rand_a``."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

__all__ = ["IdSource", "new_id", "short_id"]

_NANOSECONDS: Final = 1_000_000
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


def _format(tick: int, random: int) -> str:
    """``tick``: 60 bits, milliseconds and a 12-bit fraction; ``random``: 62 bits."""
    text = f"{tick >> 12:012x}7{tick & 0xFFF:03x}{(0b10 << 62) | random:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _tick() -> int:
    milliseconds, rest = divmod(time.time_ns(), _NANOSECONDS)
    return (milliseconds << 12) | (rest * 4096 // _NANOSECONDS)


def _random() -> int:
    return int.from_bytes(os.urandom(8), "big") >> 2


def new_id() -> str:
    """Return a fresh id; ids made at different quarter-microseconds sort by time."""
    return _format(_tick(), _random())


def short_id(characters: int = 12) -> str:
    """Return a random id of letters and digits that are hard to misread, 5 bits each."""
    return "".join(_ALPHABET[byte & 31] for byte in os.urandom(characters))


class IdSource:
    """Ids that grow strictly, also within one tick and when the clock is set back. Thread-safe."""

    __slots__ = ("_last", "_lock")

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        """Return an id that sorts after all before it."""
        with self._lock:
            self._last = tick = max(_tick(), self._last + 1)
        return _format(tick, _random())
