"""The text of a ledger: one line an event, each bound to the one before, and the sealed head.

A line is ``{"event":...,"hash":"..","mac":"..","n":N,"prev":".."}`` in canonical JSON. ``hash`` covers
``prev``, ``n`` and the event's exact bytes; ``mac`` is an HMAC of ``hash``. The head is one record of
fixed length, so that overwriting it in place is a single small write.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from jubako._lib.jsontext import canonical, parse_object

__all__ = [
    "GENESIS",
    "HEAD_SIZE",
    "MAX_LINE",
    "Head",
    "Line",
    "SealedHead",
    "encode_line",
    "last_hash",
    "parse_head",
    "parse_line",
]

GENESIS: Final = "0" * 64
MAX_LINE: Final = 1024 * 1024
HEAD_SIZE: Final = 384
_PREFIX: Final = b'{"event":'
_SUFFIX: Final = re.compile(
    rb',"hash":"([0-9a-f]{64})","mac":"([0-9a-f]{64})","n":([1-9][0-9]{0,17}),"prev":"([0-9a-f]{64})"\}\n'
)
_SUFFIX_SPAN: Final = 300


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: how many lines it has and the hash of the last. Keep one elsewhere as an anchor."""

    count: int
    hash: str

    def __str__(self) -> str:
        return f"{self.count}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Return the head written as ``count:hash``. Raises ValueError."""
        match = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text.strip())
        if match is None:
            msg = "not a ledger head; write count:hash with 64 hexadecimal digits"
            raise ValueError(msg)
        return cls(int(match[1]), match[2])


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ledger, taken apart; nothing about it is checked yet."""

    n: int
    prev: str
    hash: str
    mac: str
    event: bytes

    def follows(self, head: Head) -> bool:
        """Whether the line's place is right after ``head``."""
        return self.n == head.count + 1 and self.prev == head.hash

    def intact(self) -> bool:
        """Whether the hash fits the content."""
        return self.hash == _hash(self.prev, self.n, self.event)

    def sealed(self, key: bytes) -> bool:
        """Whether the line was written with ``key``."""
        return hmac.compare_digest(self.mac, _mac(key, b"line", self.hash.encode()))


@dataclass(frozen=True, slots=True)
class SealedHead:
    """The head as its file holds it: with the ledger's length in bytes and a MAC."""

    head: Head
    size: int
    mac: str

    @classmethod
    def seal(cls, key: bytes, head: Head, size: int) -> SealedHead:
        """Return the record for ``head``, sealed with ``key``."""
        return cls(head, size, _mac(key, b"head", f"{head.count} {head.hash} {size}".encode()))

    def sealed(self, key: bytes) -> bool:
        """Whether the record was written with ``key``."""
        return hmac.compare_digest(self.mac, SealedHead.seal(key, self.head, self.size).mac)

    def encode(self) -> bytes:
        """Return the record, padded to its fixed length."""
        fields = {"count": self.head.count, "hash": self.head.hash, "mac": self.mac, "size": self.size}
        return canonical(fields).ljust(HEAD_SIZE - 1) + b"\n"


def _hash(prev: str, n: int, event: bytes) -> str:
    return hashlib.sha256(b"jubako.ledger.v1\n%s\n%d\n%s" % (prev.encode(), n, event)).hexdigest()


def _mac(key: bytes, purpose: bytes, text: bytes) -> str:
    return hmac.digest(key, b"jubako.ledger.v1\n" + purpose + b"\n" + text, "sha256").hex()


def encode_line(key: bytes, head: Head, event: bytes) -> tuple[bytes, Head]:
    """Return the line that puts ``event`` (canonical JSON) after ``head``, and the head that it makes."""
    n = head.count + 1
    own = _hash(head.hash, n, event)
    mac = _mac(key, b"line", own.encode())
    line = b'%s%s,"hash":"%s","mac":"%s","n":%d,"prev":"%s"}\n' % (
        _PREFIX, event, own.encode(), mac.encode(), n, head.hash.encode(),
    )  # fmt: skip
    return line, Head(n, own)


def parse_line(raw: bytes) -> Line | None:
    """Return the line taken apart, or None when it has not the shape of one, newline included."""
    at = raw.rfind(b',"hash":"', max(len(raw) - _SUFFIX_SPAN, 0))
    match = _SUFFIX.fullmatch(raw, at) if at >= 0 else None
    if match is None or not raw.startswith(_PREFIX):
        return None
    return Line(int(match[3]), match[4].decode(), match[1].decode(), match[2].decode(), raw[len(_PREFIX) : at])


def last_hash(raw: bytes) -> str | None:
    """Return the hash in the line that ends ``raw``, or None when no line ends there."""
    match = _SUFFIX.fullmatch(raw, max(raw.rfind(b',"hash":"', max(len(raw) - _SUFFIX_SPAN, 0)), 0))
    return match[1].decode() if match else None


def parse_head(raw: bytes) -> SealedHead | None:
    """Return the record taken apart, or None when a single byte of it is not as it must be."""
    try:
        fields = parse_object(raw)
    except ValueError:
        return None
    count, own, mac, size = (fields.get(name) for name in ("count", "hash", "mac", "size"))
    if not (isinstance(count, int) and isinstance(size, int) and isinstance(own, str) and isinstance(mac, str)):
        return None
    record = SealedHead(Head(count, own), size, mac)
    try:
        return record if record.encode() == raw else None
    except ValueError:
        return None
