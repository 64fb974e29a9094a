"""The event envelope and the closed set of event types of this version.

Types are ``component.event`` in the past tense. Within a version fields are only added. ``seq`` is
gapless per sandbox and given by the runtime's recorder, outside the sandbox.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AgentViolated",
    "Assurance",
    "Event",
    "EventData",
    "EventsLost",
    "ExecExited",
    "ExecStarted",
    "FileTransferred",
    "LedgerRecovered",
    "LimitReached",
    "PolicyRelaxed",
    "ProbeCompleted",
    "SandboxCreated",
    "SandboxReaped",
    "SandboxRefused",
    "SandboxStateChanged",
    "Source",
    "event_fields",
]


class Source(StrEnum):
    """Who saw it."""

    HOST = "host"
    BROKER = "broker"
    KERNEL = "kernel"
    GUEST = "guest"


class Assurance(StrEnum):
    """Observed from outside, or only reported by something inside."""

    OBSERVED = "observed"
    REPORTED = "reported"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SandboxCreated(_Data):
    """The walls stand; ``card`` is the digest of the card that was accepted."""

    type: Literal["sandbox.created"] = "sandbox.created"
    driver: str
    boundary: str
    card: str = ""
    name: str | None = None


class SandboxStateChanged(_Data):
    """A step of the lifecycle."""

    type: Literal["sandbox.state_changed"] = "sandbox.state_changed"
    previous: str
    state: str
    reason: str = ""


class SandboxRefused(_Data):
    """A launch was refused because required controls could not be enforced."""

    type: Literal["sandbox.refused"] = "sandbox.refused"
    driver: str
    controls: tuple[str, ...]
    reason: str = ""


class SandboxReaped(_Data):
    """What a dead owner left behind was removed."""

    type: Literal["sandbox.reaped"] = "sandbox.reaped"
    driver: str
    owner: str


class PolicyRelaxed(_Data):
    """A policy accepted something weaker than the default, for a written reason."""

    type: Literal["policy.relaxed"] = "policy.relaxed"
    kind: str
    subject: str
    reason: str


class ExecStarted(_Data):
    """A program was asked for. Arguments are cut at 4 KiB in all and known secrets are redacted."""

    type: Literal["exec.started"] = "exec.started"
    exec: str
    argv: tuple[str, ...]
    cwd: str | None = None
    tty: bool = False


class ExecExited(_Data):
    """A program ended."""

    type: Literal["exec.exited"] = "exec.exited"
    exec: str
    code: int | None
    signal: int | None
    limits: tuple[str, ...] = ()
    seconds: float = 0.0


class LimitReached(_Data):
    """A limit of the policy was run into."""

    type: Literal["limit.reached"] = "limit.reached"
    control: str
    exec: str | None = None


class FileTransferred(_Data):
    """The caller moved file content across the boundary."""

    type: Literal["file.transferred"] = "file.transferred"
    direction: Literal["in", "out"]
    path: str
    size: int


class AgentViolated(_Data):
    """The guest broke the agent protocol; the sandbox was killed."""

    type: Literal["agent.violated"] = "agent.violated"
    rule: str


class ProbeCompleted(_Data):
    """Containment probes were run against a driver."""

    type: Literal["probe.completed"] = "probe.completed"
    driver: str
    contained: int
    escaped: int
    inconclusive: int


class EventsLost(_Data):
    """A sink missed events while it failed; the ledger has them."""

    type: Literal["events.lost"] = "events.lost"
    sink: str
    count: int


class LedgerRecovered(_Data):
    """A crash had left half a line, or lines that the head did not count; moved aside or adopted."""

    type: Literal["ledger.recovered"] = "ledger.recovered"
    kind: Literal["adopted", "torn"]
    line: int
    size: int
    count: int = 1


EventData = Annotated[
    SandboxCreated
    | SandboxStateChanged
    | SandboxRefused
    | SandboxReaped
    | PolicyRelaxed
    | ExecStarted
    | ExecExited
    | LimitReached
    | FileTransferred
    | AgentViolated
    | ProbeCompleted
    | EventsLost
    | LedgerRecovered,
    Field(discriminator="type"),
]


class Event(BaseModel):
    """One thing that happened, as it is recorded. ``seq`` counts from 1 per sandbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Unique id, sortable by time.")
    type: str = Field(description="component.event, the same as data.type.")
    version: Literal[1] = 1
    time: datetime = Field(description="UTC, when the host saw it.")
    seq: int = Field(ge=1, description="Gapless per sandbox.")
    source: Source = Source.HOST
    assurance: Assurance = Assurance.OBSERVED
    tenant: str = "local"
    sandbox: str | None = Field(
        None, description="Sandbox id; none for events of the machine, which have their own seq."
    )
    recorder: str = Field(
        "", description="The process that recorded it; events of the machine are numbered per recorder."
    )
    trace_id: str = ""
    data: EventData


def event_fields(event: Event) -> dict[str, object]:
    """Return the event as a JSON-able mapping, every field present, in the form that the schema describes."""
    return event.model_dump(mode="json")
