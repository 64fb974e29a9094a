"""A bounded reader of protobuf's wire format, for messages whose fields are known by number.

The few messages that are needed have a dozen fields that the format's rules forbid to change. A
schema compiler, its run-time library and generated code would be more to trust than this is.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_FIELDS", "MalformedMessageError", "Message"]

MAX_FIELDS: Final = 1024
"""Fields that are read of one message; what follows is left out."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES: Final = 10
_SKIPPED: Final = {_FIXED64: 8, _FIXED32: 4}


class MalformedMessageError(ValueError):
    """The bytes are not a message, or a field is not of its kind."""


class Message:
    """The fields of one message by number. What repeats is kept in order; where one is wanted, the last counts."""

    __slots__ = ("_fields", "cut")

    def __init__(self, data: bytes) -> None:
        """Read ``data``. Post: ``cut`` says whether fields were left out. Raises MalformedMessageError."""
        self._fields: dict[int, list[int | bytes]] = {}
        self.cut = False
        at, size, count = 0, len(data), 0
        while at < size:
            if count == MAX_FIELDS:
                self.cut = True
                return
            count += 1
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise MalformedMessageError("a field has the number 0")
            value: int | bytes
            if kind == _VARINT:
                value, at = _varint(data, at)
            else:
                length = _SKIPPED.get(kind, 0)
                if kind == _BYTES:
                    length, at = _varint(data, at)
                elif not length:
                    msg = f"a field has the kind {kind}"
                    raise MalformedMessageError(msg)
                value = data[at : at + length]
                at += length
                if at > size:
                    raise MalformedMessageError("a field ends after its message")
            self._fields.setdefault(number, []).append(value)

    def has(self, field: int) -> bool:
        """Return whether the field is there."""
        return field in self._fields

    def number(self, field: int) -> int:
        """Return a whole number that is not negative; 0 where it is absent."""
        values = self._fields.get(field)
        if values is None:
            return 0
        value = values[-1]
        if isinstance(value, bytes):
            msg = f"field {field} is no number"
            raise MalformedMessageError(msg)
        return value

    def signed(self, field: int) -> int:
        """Return a whole number that may be negative."""
        value = self.number(field)
        return value - 2**64 if value >= 2**63 else value

    def raw(self, field: int) -> bytes:
        """Return bytes; none where they are absent."""
        values = self._fields.get(field)
        return _bytes(values[-1], field) if values is not None else b""

    def text(self, field: int) -> str:
        """Return text, whatever it is made of."""
        return _text(self.raw(field))

    def texts(self, field: int) -> tuple[str, ...]:
        """Return all texts of a repeated field."""
        return tuple(_text(_bytes(value, field)) for value in self._fields.get(field, ()))

    def message(self, field: int) -> Message:
        """Return a message inside this one; an empty one where it is absent."""
        return Message(self.raw(field))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    try:
        byte = data[at]
        if byte < 0x80:
            return byte, at + 1
        value, shift = byte & 0x7F, 7
        for place in range(at + 1, at + _VARINT_BYTES):
            byte = data[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, place + 1
            shift += 7
    except IndexError:
        raise MalformedMessageError("a number ends after its message") from None
    raise MalformedMessageError("a number is longer than 64 bits")


def _bytes(value: int | bytes, field: int) -> bytes:
    if isinstance(value, int):
        msg = f"field {field} is no text"
        raise MalformedMessageError(msg)
    return value


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
