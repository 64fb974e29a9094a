"""Feed hostile frames to the host's side of the agent protocol.

    fuzz_frames.py --frames 10000000 [--seed 1]

Half of the sessions follow the protocol until one random change; the rest are frames in any order.
Every session ends in order or with a violation; anything else, and any bound that does not hold,
is a failure, reported with the session's own seed, which repeats it alone (``--seed S --sessions 1``).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from jubako.errors import InstanceLostError
from jubako.guest.exchange import CallExchange, Exchange, ReplyExchange
from jubako.guest.execution import ExecExchange
from jubako.guest.machine import Machine
from jubako.guest.requests import ConnectExchange, ReadExchange, ScanExchange, WatchExchange, WriteExchange
from jubako.guest.tools import ToolExchange
from jubako.guest.wire import (
    GUEST_MESSAGES,
    HEADER,
    MAX_GUEST_PAYLOAD,
    MAX_TOOL_REQUEST,
    SCHEMAS,
    Field,
    Message,
    Rule,
    ViolationError,
    encode,
    frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Fuzzer", "main"]

WINDOW = 262144
_STREAMS = 12
_POOL = 4096
_IDENTS = (0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6)
_SMALL = (0, 1, 2, 3, 7, 255, 256, 4095, 65535, 65536, 2**31 - 1, 2**32 - 1)


class Fuzzer:
    """Makes sessions from seeds and runs them; ``frames`` and ``rules`` count what happened."""

    def __init__(self, seed: int) -> None:
        self.frames = 0
        self.sessions = 0
        self.rules: Counter[str] = Counter()
        self._seed = seed
        # The same for every seed, so that a session's own seed repeats it alone.
        self._random = random.Random(0)
        self._pool = [self._any_frame() for _ in range(_POOL)]

    def run(self, frames: int, sessions: int | None = None, progress: Callable[[int], None] | None = None) -> None:
        """Run sessions until ``frames`` frames were handled, or until ``sessions`` sessions were run."""
        while self.frames < frames and (sessions is None or self.sessions < sessions):
            self.session(self._seed + self.sessions)
            self.sessions += 1
            if progress is not None and self.sessions % 10000 == 0:
                progress(self.frames)

    def session(self, seed: int) -> None:
        """Run one session. Raises AssertionError, naming the seed, when the host misbehaves."""
        rng = self._random
        rng.seed(seed)
        sent: list[bytes] = []
        machine = Machine(sent.append, window=WINDOW, max_streams=_STREAMS)
        try:
            if rng.random() < 0.9:
                machine.feed(_HELLO)
                machine.configure(_CONFIG)
                machine.feed(_READY)
            else:
                machine.renew(_RENEW)
                machine.feed(_RENEWED)
            exchanges = [self._open(machine) for _ in range(rng.randint(1, 6))]
            data = self._follow(exchanges) if rng.random() < 0.5 else self._scramble()
            self._feed(machine, exchanges, data)
        except ViolationError as error:
            self.rules[str(error.rule)] += 1
        except AssertionError as error:
            message = f"seed {seed}: {error}"
            raise AssertionError(message) from error
        except Exception as error:
            message = f"seed {seed}: {error!r} escaped"
            raise AssertionError(message) from error
        self.frames += machine.frames
        machine.abort(InstanceLostError("over"))
        assert not machine.streams, f"seed {seed}: streams are left"
        assert all(exchange.is_over for exchange in exchanges), f"seed {seed}: somebody waits for ever"

    # -- the host's requests --------------------------------------------------------------------

    def _open(self, machine: Machine) -> Exchange:
        exchange = self._random.choice(_EXCHANGES)()
        machine.open(exchange, b"")
        return exchange

    def _feed(self, machine: Machine, exchanges: list[Exchange], data: bytes) -> None:
        """Feed in pieces of any size, taking and closing in between as callers would."""
        rng = self._random
        at = 0
        while at < len(data):
            end = at + rng.choice((1, 5, 9, 10, 100, 1000, 70000, len(data)))
            machine.feed(data[at:end])
            at = end
            _check(machine, exchanges)
            exchange = rng.choice(exchanges)
            roll = rng.random()
            if roll < 0.3:
                for inbox in exchange.inboxes:
                    inbox.take()
                if isinstance(exchange, ScanExchange | WatchExchange):
                    exchange.items.take()
            elif roll < 0.35:
                exchange.close()
            elif roll < 0.37:
                machine.prepare()
                machine.release()

    # -- the guest's frames ---------------------------------------------------------------------

    def _follow(self, exchanges: list[Exchange]) -> bytes:
        """Return a session that keeps to the protocol but for one change."""
        rng = self._random
        scripts = [self._script(exchange) for exchange in exchanges]
        order = [index for index, script in enumerate(scripts) for _ in script]
        rng.shuffle(order)
        nexts = [iter(script) for script in scripts]
        frames = [next(nexts[index]) for index in order]
        if rng.random() < 0.8 and frames:
            at = rng.randrange(len(frames))
            frames[at : at + 1] = self._change(frames[at])
        return b"".join(frames)

    def _script(self, exchange: Exchange) -> list[bytes]:
        """Return what an honest guest would say about a request."""
        rng = self._random
        ident = exchange.ident
        end = frame(Message.END, ident, _END_OK)
        data = [self._data(ident) for _ in range(rng.randint(0, 6))]
        entry: list[bytes] = []
        if isinstance(exchange, ExecExchange):
            body = [frame(Message.STARTED, ident, b"\0\0\0\7"), *data]
            tail = [_EOFS[0], _EOFS[1], _EXIT]
            rng.shuffle(tail)
            return [*body, *(HEADER.pack(len(payload), kind, ident) + payload for kind, payload in tail), end]
        if isinstance(exchange, ReadExchange):
            return [frame(Message.INFO, ident, _INFO), *data, end]
        if isinstance(exchange, ToolExchange):
            sizes = [rng.choice((1, 3, 1000, 65536)) for _ in range(rng.randint(0, 6))]
            call = frame(Message.CALL, ident, encode(Message.CALL, (b"add", sum(sizes))))
            return [call, *(frame(Message.DATA, ident, bytes(size)) for size in sizes), end]
        if isinstance(exchange, ConnectExchange):
            return [frame(Message.CONNECTED, ident), *data, frame(Message.EOF, ident, b"\0"), end]
        if isinstance(exchange, ScanExchange):
            entry = [frame(Message.ENTRY, ident, _ENTRY)] * rng.randint(0, 6)
        elif isinstance(exchange, WatchExchange):
            entry = [frame(Message.CHANGE, ident, _CHANGE)] * rng.randint(0, 6)
        elif isinstance(exchange, ReplyExchange):
            stat = exchange.request is Message.STAT
            entry = [frame(Message.INFO, ident, _INFO) if stat else frame(Message.USED, ident, bytes(32))]
        return [*entry, end]

    def _data(self, ident: int) -> bytes:
        size = self._random.choice((1, 2, 10, 100, 4000, 65536)) if self._random.random() < 0.2 else 3
        return frame(Message.DATA, ident, bytes(size))

    def _change(self, good: bytes) -> list[bytes]:  # noqa: PLR0911  # one for each kind of change
        """Return what stands in for one good frame."""
        rng = self._random
        roll = rng.randrange(9)
        if roll == 0:
            return []
        if roll == 1:
            return [good, good]
        if roll == 2:
            return [rng.choice(self._pool), good]
        if roll == 3:
            return [good[: rng.randrange(len(good))]]
        if roll == 4:
            return [good, rng.randbytes(rng.randint(1, 30))]
        if roll == 5:
            return [good[:4] + bytes((rng.choice(_KINDS),)) + good[5:]]
        if roll == 6:
            ident = int.from_bytes(good[5:9], "big")
            return [
                good,
                *[frame(Message.DATA, ident, bytes(rng.choice((0, 1, MAX_GUEST_PAYLOAD))))] * rng.randint(1, 6),
            ]
        changed = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(min(len(changed), 64))] = rng.randrange(256)
        return [bytes(changed)]

    def _scramble(self) -> bytes:
        """Return frames that have nothing to do with each other."""
        return b"".join(self._random.choices(self._pool, k=self._random.randint(1, 12)))

    def _any_frame(self) -> bytes:
        rng = self._random
        kind = rng.choice(_KINDS) if rng.random() < 0.9 else Message(rng.choice(tuple(Message)))
        ident = rng.choice(_IDENTS) if rng.random() < 0.95 else rng.choice(_SMALL)
        payload = self._payload(kind)
        roll = rng.random()
        if roll < 0.05:
            return HEADER.pack(rng.choice(_SMALL), kind, ident) + payload
        if roll < 0.1:
            return HEADER.pack(len(payload), rng.randrange(256), ident) + payload
        return HEADER.pack(len(payload), kind, ident) + payload

    def _payload(self, kind: Message) -> bytes:
        rng = self._random
        if kind in {Message.DATA, Message.ERRDATA}:
            return rng.randbytes(rng.choice((0, 1, 3, 10, 1000, MAX_GUEST_PAYLOAD)))
        fields: list[Field] = [self._value(type_, bound) for _, type_, bound in SCHEMAS[kind]]
        payload = encode(kind, fields)
        roll = rng.random()
        if roll < 0.1:
            return payload[: rng.randint(0, len(payload))]
        if roll < 0.15:
            return payload + rng.randbytes(rng.randint(1, 8))
        if roll < 0.3 and payload:
            changed = bytearray(payload)
            changed[rng.randrange(len(changed))] = rng.randrange(256)
            return bytes(changed)
        return payload

    def _value(self, type_: str, bound: int) -> Field:
        rng = self._random
        if type_ in {"u8", "u32", "u64", "i64"}:
            top = bound or {"u8": 255, "u32": 2**32 - 1}.get(type_, 2**63 - 1)
            return rng.randint(0, top) if rng.random() < 0.5 else min(top, rng.choice(_SMALL))
        if type_ == "str":
            return "".join(rng.choices("ab\u00e9\x1b", k=min(bound, rng.randint(0, 20))))
        if type_ == "bytes":
            return rng.choice((b"", b"a", b"a/b", b"..", b"/etc", b"a//b", b"a\0b", rng.randbytes(12)))[:bound]
        if type_ == "list":
            return [rng.randbytes(4) for _ in range(rng.randint(0, 3))]
        if type_ == "pairs":
            return [(b"k", rng.randbytes(3)) for _ in range(rng.randint(0, 3))]
        return [rng.randrange(2**64) for _ in range(rng.randint(0, 3))]


def _check(machine: Machine, exchanges: list[Exchange]) -> None:
    """Assert the bounds that no guest may break."""
    assert machine.buffered <= HEADER.size + MAX_GUEST_PAYLOAD, "more than one frame is kept"
    assert len(machine.streams) <= len(exchanges), "a stream that nobody asked for"
    for exchange in exchanges:
        for inbox in exchange.inboxes:
            assert 0 <= inbox.credit <= WINDOW, "credit out of bounds"
            assert inbox.held <= WINDOW, "more is kept than credit was given"
        if isinstance(exchange, ToolExchange):
            assert len(exchange.arguments) <= MAX_TOOL_REQUEST, "more is kept than a call may have"
        if isinstance(exchange, ScanExchange | WatchExchange):
            assert exchange.items.held <= WINDOW, "more is kept than credit was given"
        if exchange.outbox is not None:
            assert 0 <= exchange.outbox.credit <= WINDOW, "the guest gave itself credit"


def _answer(exchange: ToolExchange) -> None:
    exchange.answer(2)


_HELLO = frame(Message.HELLO, 0, encode(Message.HELLO, (2, "2.0", "3.11.2", 1, 1000)))
_READY = frame(Message.READY, 0, encode(Message.READY, ([b"exec"], 7, 1, "")))
_CONFIG: Sequence[Field] = (b"/w", b"", [], [], 0, [], [], [], b"", WINDOW, 256, 250, b"", [], [], 0, 0, 0)
_RENEW: Sequence[Field] = (b"child", bytes(32), bytes(64), [], WINDOW, 256, 250, 1)
_FACTS: Sequence[Field] = (2, "2.0", "3.11.2", 1, 1000, [b"exec"], 7, 1, "", [])
_RENEWED = frame(Message.RENEWED, 0, encode(Message.RENEWED, _FACTS))
_END_OK = encode(Message.END, (0, 0, ""))
_INFO = encode(Message.INFO, (0, 5, 0o644, 10**18, b""))
_ENTRY = encode(Message.ENTRY, (b"name", 0, 5, 0o644, 10**18, b""))
_CHANGE = encode(Message.CHANGE, (1, b"name"))
_EOFS = ((Message.EOF, b"\0"), (Message.EOF, b"\1"))
_EXIT = (Message.EXIT, encode(Message.EXIT, (0, 0, 0, 1, 1, 1, 0)))
_KINDS = tuple(sorted(GUEST_MESSAGES))
_EXCHANGES: tuple[Callable[[], Exchange], ...] = (
    lambda: ExecExchange(stdin=True, max_output=100000),
    lambda: ExecExchange(stdin=False, max_output=2),
    lambda: ReadExchange(1000000),
    lambda: ReadExchange(10),
    lambda: ScanExchange(recursive=True),
    lambda: WatchExchange(recursive=False),
    lambda: ReplyExchange(Message.STAT, Message.INFO),
    lambda: ReplyExchange(Message.USAGE, Message.USED),
    lambda: CallExchange(Message.KILL),
    WriteExchange,
    ConnectExchange,
    lambda: ToolExchange(_answer, lambda _: None),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; 1 when the host misbehaved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000_000)
    parser.add_argument("--sessions", type=int, default=None, help="stop after that many sessions")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    fuzzer = Fuzzer(given.seed)
    start = time.monotonic()

    def progress(frames: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{frames:>12,} of {given.frames:,} frames", end="", file=sys.stderr, flush=True)

    try:
        fuzzer.run(given.frames, given.sessions, progress)
    except AssertionError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - start
    print(
        f"{fuzzer.frames:,} frames in {fuzzer.sessions:,} sessions, {seconds:.0f} s, seed {given.seed}: nothing escaped"
    )
    for rule in Rule:
        print(f"  {rule:<20} {fuzzer.rules[str(rule)]:>10,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
