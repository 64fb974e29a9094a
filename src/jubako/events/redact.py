"""Secrets taken out at the source: before an event reaches any sink.

Known values are replaced wherever they stand, also base64- and URL-encoded. Besides those, shapes of
well-known tokens are replaced; the list is ``TOKEN_SHAPES`` and nothing more is promised. A secret
that is split over two arguments, or encoded otherwise, is not found.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jubako.events.model import EventData

__all__ = ["ARGV_LIMIT", "TEXT_LIMIT", "TOKEN_SHAPES", "Redactor", "TokenShape"]

TEXT_LIMIT: Final = 4096
ARGV_LIMIT: Final = 4096
_ITEMS_LIMIT: Final = 256
_WINDOW: Final = 16 * 1024
_SHORTEST: Final = 4
_MARK: Final = "[redacted]"


@dataclass(frozen=True, slots=True)
class TokenShape:
    """How one kind of token looks. ``needles`` are tried first because a substring search is cheap."""

    name: str
    needles: tuple[str, ...]
    pattern: re.Pattern[str]


def _shape(name: str, needles: tuple[str, ...], pattern: str) -> TokenShape:
    return TokenShape(name, needles, re.compile(pattern, re.DOTALL))


TOKEN_SHAPES: Final = (
    _shape("aws-key", ("AKIA", "ASIA"), r"(?<![0-9A-Z])(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])"),
    _shape(
        "aws-secret",
        ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        r"(?<=[sS]_[kK][eE][yY])[ \t\"']{0,8}[=:][ \t\"']{0,8}[A-Za-z0-9/+=]{40}",
    ),
    _shape("github-token", ("gh", "github_pat_"), r"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255})"),
    _shape("gitlab-token", ("gl",), r"gl(?:pat|ptt|dt|rt|cbt|ft|soat|agent|imt)-[A-Za-z0-9_.-]{20,300}"),
    _shape("slack-token", ("xox", "xapp-"), r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,300}"),
    _shape("slack-webhook", ("hooks.slack.com",), r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{10,300}"),
    _shape("openai-key", ("sk-",), r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,300}"),
    _shape("jwt", ("eyJ",), r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*"),
    _shape(
        "private-key",
        ("PRIVATE KEY",),
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?"
        r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    ),
    _shape("url-credentials", ("://",), r"(?<=://)[^/\s@?#]{1,1024}(?=@)"),
)
"""The documented list of token shapes, in the order in which they are applied."""


def _spellings(value: str) -> Iterable[str]:
    yield value
    yield quote(value, safe="")
    yield quote_plus(value)
    raw = value.encode("utf-8", "surrogateescape")
    for encoded in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        yield encoded.decode().rstrip("=")


def _cut(text: str, limit: int) -> str:
    """Return at most ``limit`` bytes of UTF-8; a cut shows as an ellipsis, of three bytes."""
    if text.isascii():
        return text if len(text) <= limit else text[: max(limit - 3, 0)] + "…"
    raw = text.encode()
    return text if len(raw) <= limit else raw[: max(limit - 3, 0)].decode("utf-8", "ignore") + "…"


class Redactor:
    """Takes known secret values and token shapes out of text. Immutable, thread-safe."""

    __slots__ = ("_shapes", "_values", "_window")

    def __init__(self, values: Iterable[str] = (), shapes: Iterable[TokenShape] = TOKEN_SHAPES) -> None:
        """Values under 4 characters are left out: they would blacken everything and hide nothing."""
        spellings = {item for value in values if len(value) >= _SHORTEST for item in _spellings(value)}
        # Longest first, so that a value inside another does not leave the rest of it standing.
        self._values = tuple(sorted(spellings, key=lambda item: (-len(item), item)))
        self._shapes = tuple(shapes)
        self._window = max(_WINDOW, 2 * len(self._values[0]) if self._values else 0)

    def text(self, value: str, limit: int = TEXT_LIMIT) -> str:
        """Return ``value`` without secrets, as valid UTF-8 of at most ``limit`` bytes."""
        # Cut after redaction: a secret across the limit would otherwise leave its first half.
        text = value if len(value) <= limit else value[: limit + self._window]
        for known in self._values:
            if known in text:
                text = text.replace(known, _MARK)
        for shape in self._shapes:
            if any(needle in text for needle in shape.needles):
                text = shape.pattern.sub(f"[redacted:{shape.name}]", text)
        if not text.isascii():
            text = text.encode("utf-8", "backslashreplace").decode()
        return _cut(text, limit)

    def items(self, values: tuple[str, ...], limit: int = ARGV_LIMIT) -> tuple[str, ...]:
        """Return the arguments without secrets, ``limit`` bytes in all; the last says how many are missing."""
        kept: list[str] = []
        left = limit
        for number, value in enumerate(values):
            text = self.text(value, left) if left else ""
            if not left or number >= _ITEMS_LIMIT:
                kept.append(f"… {len(values) - number} more")
                break
            kept.append(text)
            left = max(left - max(len(text.encode()), 1), 0)
        return tuple(kept)

    def data(self, data: EventData) -> EventData:
        """Return the event data with every string in it redacted; the same object when nothing changed."""
        changes: dict[str, object] = {}
        for name, value in data.__dict__.items():
            clean: object = value
            if type(value) is str:
                clean = self.text(value)
            elif isinstance(value, tuple):
                clean = self.items(cast("tuple[str, ...]", value))
            if clean != value:
                changes[name] = clean
        return data.model_copy(update=changes) if changes else data
