"""Reading a ledger backwards, with bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jubako._lib.jsontext import parse_object
from jubako.sinks._chain import MAX_LINE, parse_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["last_sequence", "reversed_lines"]

_BLOCK: Final = 64 * 1024
_REACH: Final = 64 * 1024 * 1024


def reversed_lines(path: Path, reach: int = _REACH) -> Iterator[bytes]:
    """Yield the lines of the last ``reach`` bytes, newest first; over-long ones are skipped."""
    with path.open("rb") as file:
        position = file.seek(0, 2)
        floor = max(position - reach, 0)
        rest = b""
        while position > floor:
            step = min(_BLOCK, position - floor)
            position -= step
            file.seek(position)
            first, *whole = (file.read(step) + rest).split(b"\n")
            yield from (line + b"\n" for line in reversed(whole) if line)
            rest = first if len(first) <= MAX_LINE else b""
        if floor == 0 and rest:
            yield rest + b"\n"


def last_sequence(path: Path, sandbox: str) -> int:
    """Return the ``seq`` of the newest event of ``sandbox`` in reach, or 0."""
    wanted = sandbox.encode()
    try:
        for raw in reversed_lines(path):
            line = parse_line(raw) if wanted in raw else None
            if line is None:
                continue
            fields = parse_object(line.event)
            if fields.get("sandbox") == sandbox and isinstance(seq := fields.get("seq"), int):
                return seq
    except (FileNotFoundError, ValueError):
        return 0
    return 0
