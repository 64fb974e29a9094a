"""The recorder: gives events their envelope, outside the sandbox, and hands them to the sinks."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from jubako._lib.ids import IdSource, new_id
from jubako.errors import LedgerError
from jubako.events.model import Event, EventData, EventsLost, SandboxReaped
from jubako.events.redact import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jubako.events.model import Assurance, Source

__all__ = ["LedgerSink", "Recorder", "Sink"]


class Sink(Protocol):
    """Takes events. Must be quick; what it raises is counted as a lost event, not passed on."""

    def write(self, event: Event) -> None:
        """Take one event."""
        ...


class LedgerSink(Sink, Protocol):
    """The sink without which nothing may happen: what it raises stops the act that it would record."""

    def last_sequence(self, sandbox: str) -> int:
        """Return the ``seq`` of the newest event of ``sandbox``, or 0."""
        ...

    def notices(self) -> Sequence[EventData]:
        """Return, once, what the ledger itself has to say; it is recorded like any event."""
        ...


class Recorder:
    """Numbers, redacts and hands out events. One per process; thread-safe.

    ``seq`` is gapless per sandbox: an event that the ledger refuses takes no number. Other sinks may
    fail; ``lost`` counts what they missed, and an ``events.lost`` event says so once a sink takes
    events again.
    """

    def __init__(
        self, ledger: LedgerSink | None = None, sinks: Iterable[Sink] = (), redactor: Redactor | None = None
    ) -> None:
        self.id = new_id()
        self._ledger = ledger
        self._sinks = tuple(sinks)
        self._redactor = redactor or Redactor()
        self._ids = IdSource()
        self._sequences: dict[str | None, int] = {}
        self._lost = [0] * len(self._sinks)
        self._unreported = [0] * len(self._sinks)
        # Held over the sinks too, so that every sink sees a sandbox's events in order.
        self._lock = threading.RLock()

    @property
    def lost(self) -> Mapping[str, int]:
        """How many events each sink has missed, by class name and position."""
        names = (f"{type(sink).__name__}-{index}" for index, sink in enumerate(self._sinks))
        return MappingProxyType(dict(zip(names, self._lost, strict=True)))

    def record(
        self,
        sandbox: str | None,
        data: EventData,
        *,
        source: Source | None = None,
        assurance: Assurance | None = None,
        trace_id: str = "",
    ) -> Event:
        """Record one event and return it. Raises LedgerError when the ledger can't take it.

        Who saw it and how sure it is comes from the event's type, unless given.
        """
        clean = self._redactor.data(data)
        with self._lock:
            before = self._sequences.get(sandbox)
            if before is None:
                taken_over = sandbox is not None and isinstance(data, SandboxReaped)
                before = self._last(sandbox) if taken_over else 0
            # Built without validation: the fields are the recorder's own and the data was validated.
            event = Event.model_construct(
                id=self._ids(), type=data.type, version=1, time=datetime.now(UTC), seq=before + 1,
                source=source or data.seen_by, assurance=assurance or data.certainty,
                tenant="local", sandbox=sandbox, recorder=self.id, trace_id=trace_id, data=clean,
            )  # fmt: skip
            self._into_ledger(event)
            self._sequences[sandbox] = event.seq
            self._into_sinks(event)
            for notice in self._ledger.notices() if self._ledger is not None else ():
                self.record(None, notice)
        return event

    def resume(self, sandbox: str) -> int:
        """Continue the numbering of a sandbox that another process has recorded; return its last ``seq``."""
        with self._lock:
            self._sequences.setdefault(sandbox, self._last(sandbox))
            return self._sequences[sandbox]

    def forget(self, sandbox: str) -> None:
        """Drop the numbering of a sandbox that is gone. Post: nothing more is recorded for it."""
        with self._lock:
            self._sequences.pop(sandbox, None)

    def _last(self, sandbox: str | None) -> int:
        return self._ledger.last_sequence(sandbox) if self._ledger is not None and sandbox is not None else 0

    def _into_ledger(self, event: Event) -> None:
        if self._ledger is None:
            return
        try:
            self._ledger.write(event)
        except LedgerError:
            raise
        except Exception as error:
            msg = f"the ledger failed: {error}"
            raise LedgerError(msg) from error

    def _into_sinks(self, event: Event) -> None:
        for index, sink in enumerate(self._sinks):
            try:
                sink.write(event)
            except Exception:  # noqa: BLE001  # a sink is foreign code; its failure is counted, and reported below
                self._lost[index] += 1
                self._unreported[index] += 1
                continue
            missed, self._unreported[index] = self._unreported[index], 0
            if missed:
                self.record(None, EventsLost(sink=type(sink).__name__, count=missed))
