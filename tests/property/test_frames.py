"""The parser of guest frames: any bytes, any split, any change of a valid session."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from jubako.guest.execution import ExecExchange
from jubako.guest.machine import Machine
from jubako.guest.requests import ReadExchange, ScanExchange
from jubako.guest.wire import (
    HEADER,
    MAX_GUEST_PAYLOAD,
    SCHEMAS,
    Field,
    Fields,
    Message,
    ViolationError,
    decode,
    encode,
    frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from jubako.guest.exchange import Exchange

HELLO = frame(Message.HELLO, 0, encode(Message.HELLO, (1, "x", "3", 1, 1)))
READY = frame(Message.READY, 0, encode(Message.READY, ([], 0, 0, "")))
CONFIG: list[Field] = [b"/w", b"", [], [], 0, [], [], [], b"", 65536, 8, 250, b"", [], [], 0, 0, 0]
END = encode(Message.END, (0, 0, ""))
VALID = b"".join((
    frame(Message.STARTED, 1, encode(Message.STARTED, (9,))),
    frame(Message.INFO, 2, encode(Message.INFO, (0, 6, 0o644, 0, b""))),
    frame(Message.DATA, 1, b"output"),
    frame(Message.DATA, 2, b"file"),
    frame(Message.ENTRY, 3, encode(Message.ENTRY, (b"name", 0, 1, 0o600, 5, b""))),
    frame(Message.ERRDATA, 1, b"error"),
    frame(Message.DATA, 2, b"##"),
    frame(Message.EXIT, 1, encode(Message.EXIT, (0, 3, 0, 1, 2, 3, 0))),
    frame(Message.END, 3, END),
    frame(Message.EOF, 1, b"\0"),
    frame(Message.END, 2, END),
    frame(Message.EOF, 1, b"\1"),
    frame(Message.END, 1, END),
    frame(Message.BYE, 0, encode(Message.BYE, (0, ""))),
))  # fmt: skip


def session() -> tuple[Machine, list[Exchange]]:
    machine = Machine(lambda _: None, window=65536, max_streams=8)
    machine.feed(HELLO)
    machine.configure(CONFIG)
    machine.feed(READY)
    exchanges: list[Exchange] = [ExecExchange(stdin=True, max_output=8), ReadExchange(10), ScanExchange(recursive=True)]
    for exchange in exchanges:
        machine.open(exchange, b"")
    return machine, exchanges


def outcome(pieces: list[bytes]) -> tuple[str, int, Fields | None, list[object]]:
    """Return all that can be seen of a session after these bytes."""
    machine, exchanges = session()
    rule = ""
    try:
        for piece in pieces:
            machine.feed(piece)
            assert machine.buffered <= HEADER.size + MAX_GUEST_PAYLOAD
    except ViolationError as error:
        rule = str(error.rule)
    taken: list[object] = []
    for exchange in exchanges:
        for inbox in exchange.inboxes:
            while (item := inbox.take()) is not None:
                taken.append(item)
        taken.append((exchange.end, exchange.is_over))
    return rule, machine.frames, machine.bye, taken


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def test_the_valid_session_is_valid() -> None:
    rule, frames, bye, _ = outcome([VALID])
    assert (rule, frames, bye) == ("", 16, (0, ""))


@given(st.lists(st.integers(0, 10**6), max_size=40))
def test_splits_change_nothing(cuts: list[int]) -> None:
    assert outcome(split(VALID, cuts)) == outcome([VALID])


@given(st.binary(max_size=400), st.lists(st.integers(0, 10**6), max_size=5))
def test_any_bytes(data: bytes, cuts: list[int]) -> None:
    assert outcome(split(data, cuts)) == outcome([data])


@settings(max_examples=500)
@given(st.data())
def test_any_change_of_a_valid_session(data: st.DataObject) -> None:
    changed = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        action = data.draw(st.sampled_from(["set", "drop", "insert"]))
        if action == "set":
            changed[at] = data.draw(st.integers(0, 255))
        elif action == "drop":
            del changed[at]
        else:
            changed.insert(at, data.draw(st.integers(0, 255)))
    pieces = split(bytes(changed), data.draw(st.lists(st.integers(0, 10**6), max_size=4)))
    assert outcome(pieces) == outcome([bytes(changed)])


def fields(message: Message) -> st.SearchStrategy[Fields]:
    makers: dict[str, Callable[[int], st.SearchStrategy[Field]]] = {
        "u8": lambda bound: st.integers(0, bound or 255),
        "u32": lambda bound: st.integers(0, bound or 2**32 - 1),
        "u64": lambda bound: st.integers(0, bound or 2**64 - 1),
        "i64": lambda _: st.integers(-(2**63), 2**63 - 1),
        "bytes": lambda bound: st.binary(max_size=min(bound, 50)),
        "str": lambda bound: st.text(st.characters(codec="utf-8"), max_size=min(bound, 50) // 4),
        "list": lambda bound: st.lists(st.binary(max_size=9), max_size=min(bound, 5)),
        "pairs": lambda bound: st.lists(
            st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=min(bound, 5)
        ),
        "u64s": lambda bound: st.lists(st.integers(0, 2**64 - 1), max_size=min(bound, 5)),
    }
    return st.tuples(*(makers[type_](bound) for _, type_, bound in SCHEMAS[message]))


@given(st.data())
def test_messages_round_trip(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(sorted(SCHEMAS)))
    values = data.draw(fields(Message(message)))
    assert decode(Message(message), encode(Message(message), values)) == values


@given(st.sampled_from(sorted(SCHEMAS)), st.binary(max_size=120))
def test_whatever_decodes_encodes_to_the_same(message: int, payload: bytes) -> None:
    try:
        values = decode(Message(message), payload)
    except ViolationError:
        return
    assert encode(Message(message), values) == payload
