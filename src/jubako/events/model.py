"""The event envelope and the closed set of event types of this version.

Types are ``component.event`` in the past tense. Within a version fields are only added. ``seq`` is
gapless per sandbox and given by the runtime's recorder, outside the sandbox.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AgentViolated",
    "Assurance",
    "ConnectionTried",
    "Event",
    "EventData",
    "EventsLost",
    "ExecExited",
    "ExecStarted",
    "FileOpened",
    "FileTransferred",
    "LedgerRecovered",
    "LimitReached",
    "PolicyRelaxed",
    "ProbeCompleted",
    "ProgramCloned",
    "ProgramExited",
    "ProgramStarted",
    "SandboxCreated",
    "SandboxForked",
    "SandboxReaped",
    "SandboxRefused",
    "SandboxRestored",
    "SandboxStateChanged",
    "SnapshotCreated",
    "SnapshotRemoved",
    "Source",
    "ToolCalled",
    "ToolVerdict",
    "TraceDropped",
    "TraceFailed",
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
    """``seen_by`` and ``certainty`` become the envelope's ``source`` and ``assurance``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen_by: ClassVar[Source] = Source.HOST
    certainty: ClassVar[Assurance] = Assurance.OBSERVED


class _Activity(_Data):
    """What the sandbox's own kernel saw programs do: outside of the programs, inside the sandbox's outer wall.

    A program can't forge it; a kernel that was taken over can.
    """

    seen_by: ClassVar[Source] = Source.KERNEL


class SandboxCreated(_Data):
    """The walls stand; ``card`` is the digest of the card that was accepted."""

    type: Literal["sandbox.created"] = "sandbox.created"
    driver: str = Field(description="The mechanism that built them.")
    boundary: str = Field(description="Kind of wall.")
    card: str = Field(default="", description="Digest of the accepted card.")
    name: str | None = Field(default=None, description="The caller's name for it.")


class SandboxStateChanged(_Data):
    """A step of the lifecycle."""

    type: Literal["sandbox.state_changed"] = "sandbox.state_changed"
    previous: str = Field(description="State before.")
    state: str = Field(description="State now.")
    reason: str = Field(default="", description="Why, if it was not asked for.")


class SandboxRefused(_Data):
    """A launch was refused because required controls could not be enforced."""

    type: Literal["sandbox.refused"] = "sandbox.refused"
    driver: str = Field(description="The mechanism that was asked.")
    controls: tuple[str, ...] = Field(description="Controls that would not hold.")
    reason: str = Field(default="", description="Why not.")


class SandboxReaped(_Data):
    """What a dead owner left behind was removed."""

    type: Literal["sandbox.reaped"] = "sandbox.reaped"
    driver: str = Field(description="The mechanism that had built it.")
    owner: str = Field(description="The dead process that had made it.")


class PolicyRelaxed(_Data):
    """A policy accepted something weaker than the default, for a written reason."""

    type: Literal["policy.relaxed"] = "policy.relaxed"
    kind: str = Field(description="Kind of relaxation.")
    subject: str = Field(description="Control and level, or host directory.")
    reason: str = Field(description="The written reason.")


class ExecStarted(_Data):
    """A program was asked for. Arguments are cut at 4 KiB in all and known secrets are redacted."""

    type: Literal["exec.started"] = "exec.started"
    exec: str = Field(description="Id of the program run.")
    argv: tuple[str, ...] = Field(description="The program and its arguments.")
    cwd: str | None = Field(default=None, description="Directory inside; none: the workspace.")
    tty: bool = Field(default=False, description="Whether it has a terminal.")


class ExecExited(_Data):
    """A program ended."""

    type: Literal["exec.exited"] = "exec.exited"
    exec: str = Field(description="Id of the program run.")
    code: int | None = Field(description="Exit status, unless a signal ended it.")
    signal: int | None = Field(description="Number of the signal that ended it.")
    limits: tuple[str, ...] = Field(default=(), description="Controls whose limits it ran into.")
    seconds: float = Field(default=0.0, description="Wall time.")


class LimitReached(_Data):
    """A limit of the policy was run into."""

    type: Literal["limit.reached"] = "limit.reached"
    control: str = Field(description="Whose limit.")
    exec: str | None = Field(default=None, description="The program run that ran into it; none: the sandbox.")


class FileTransferred(_Data):
    """The caller moved file content across the boundary."""

    type: Literal["file.transferred"] = "file.transferred"
    direction: Literal["in", "out"] = Field(description="Into the sandbox or out of it.")
    path: str = Field(description="Path inside.")
    size: int = Field(description="Bytes.")


class SandboxRestored(_Data):
    """A sandbox goes on from a snapshot, with an identity of its own; follows its ``sandbox.created``."""

    type: Literal["sandbox.restored"] = "sandbox.restored"
    snapshot: str = Field(description="Digest of the snapshot.")
    origin: str = Field(description="The sandbox that the snapshot was made of.")


class SandboxForked(_Data):
    """A sandbox goes on from a living one, with an identity of its own; follows its ``sandbox.created``."""

    type: Literal["sandbox.forked"] = "sandbox.forked"
    parent: str = Field(description="The sandbox that it was forked from.")


class SnapshotCreated(_Data):
    """The sandbox was written down; it goes on running."""

    type: Literal["snapshot.created"] = "snapshot.created"
    snapshot: str = Field(description="Digest of the snapshot.")
    driver: str = Field(description="The mechanism that wrote it.")
    size: int = Field(description="Bytes.")
    name: str | None = Field(default=None, description="The caller's name for it.")
    parent: str | None = Field(default=None, description="Digest of the snapshot that the sandbox came from.")


class SnapshotRemoved(_Data):
    """A snapshot and its files were removed."""

    type: Literal["snapshot.removed"] = "snapshot.removed"
    snapshot: str = Field(description="Digest of the snapshot.")
    name: str | None = Field(default=None, description="The caller's name for it.")


ToolVerdict = Literal[
    "answered", "busy", "cancelled", "denied", "failed", "invalid", "over-budget", "too-large", "timed-out"
]
"""How the call of a host function ended."""


class ToolCalled(_Data):
    """A program inside called a host function. Arguments and answers are not recorded.

    Calls that were refused in quick succession share one event, so that they can't flood the ledger.
    """

    type: Literal["tool.called"] = "tool.called"
    tool: str = Field(description="The function's name; empty where what was asked for is no name.")
    verdict: ToolVerdict = Field(description="`answered`, or why not.")
    seconds: float = Field(default=0.0, description="Wall time; for shared events of the last call.")
    bytes_in: int = Field(default=0, description="Size of the arguments; for shared events of all.")
    bytes_out: int = Field(default=0, description="Size of the answer; for shared events of all.")
    count: int = Field(default=1, ge=1, description="Calls that this event stands for.")


class AgentViolated(_Data):
    """The guest broke the agent protocol; the sandbox was killed."""

    type: Literal["agent.violated"] = "agent.violated"
    rule: str = Field(description="The rule of the protocol that it broke.")


class ProgramStarted(_Activity):
    """A process inside became a program (execve). Arguments are cut and redacted like those of ``exec.started``.

    An empty path with no arguments: the kernel could not write them down, because they are no text or too long.
    """

    type: Literal["program.started"] = "program.started"
    pid: int = Field(description="Process id inside.")
    path: str = Field(description="The program's file.")
    argv: tuple[str, ...] = Field(description="Its arguments.")


class ProgramCloned(_Activity):
    """A process inside made another one; threads are not recorded."""

    type: Literal["program.cloned"] = "program.cloned"
    pid: int = Field(description="Process id inside.")
    child: int = Field(description="The new process's id.")


class ProgramExited(_Activity):
    """A process inside ended."""

    type: Literal["program.exited"] = "program.exited"
    pid: int = Field(description="Process id inside.")
    code: int | None = Field(description="Exit status, unless a signal ended it.")
    signal: int | None = Field(description="Number of the signal that ended it.")


class FileOpened(_Activity):
    """A program opened a path that the policy calls sensitive, or tried to.

    The path is the one that was asked for, made absolute; symbolic links in it are not followed.
    """

    type: Literal["file.opened"] = "file.opened"
    pid: int = Field(description="Process id inside.")
    path: str = Field(description="Path inside.")
    write: bool = Field(description="Whether it was opened for writing.")
    error: int | None = Field(default=None, description="Number of the error (errno); none: it was opened.")


class ConnectionTried(_Activity):
    """A program called connect; whether it got through is for the network's walls to say."""

    type: Literal["connection.tried"] = "connection.tried"
    pid: int = Field(description="Process id inside.")
    family: str = Field(description="`inet`, `inet6`, `unix`, or the family's number.")
    address: str = Field(description="Address or path; `@` begins an abstract name.")
    port: int | None = Field(default=None, description="Port, where the family has ports.")


class TraceDropped(_Data):
    """Acts inside went unrecorded: what happened between this event and the one before may be more than is told."""

    type: Literal["trace.dropped"] = "trace.dropped"
    count: int = Field(ge=1, description="How many.")
    reason: Literal["queue", "rate", "unreadable", "unknown"] = Field(
        description=(
            "`queue`: more at once than the kernel inside could send; `rate`: more a second than is recorded; "
            "`unreadable`: the kernel could not write them down; `unknown`: of a kind that was not asked for."
        )
    )


class TraceFailed(_Data):
    """The kernel inside stopped telling what programs do, or told nonsense; the sandbox was killed."""

    type: Literal["trace.failed"] = "trace.failed"
    reason: str = Field(description="What was wrong.")


class ProbeCompleted(_Data):
    """Containment probes were run against a driver."""

    type: Literal["probe.completed"] = "probe.completed"
    driver: str = Field(description="The mechanism under test.")
    contained: int = Field(description="Attempts that failed inside and succeed outside.")
    escaped: int = Field(description="Attempts that succeeded inside.")
    inconclusive: int = Field(description="Attempts that prove nothing here.")


class EventsLost(_Data):
    """A sink missed events while it failed; the ledger has them."""

    type: Literal["events.lost"] = "events.lost"
    sink: str = Field(description="Which sink.")
    count: int = Field(description="How many events.")


class LedgerRecovered(_Data):
    """A crash had left half a line, or lines that the head did not count; moved aside or adopted."""

    type: Literal["ledger.recovered"] = "ledger.recovered"
    kind: Literal["adopted", "torn"] = Field(description="Taken over, or moved to the .torn file.")
    line: int = Field(description="Number of the (first) line.")
    size: int = Field(description="Bytes.")
    count: int = Field(default=1, description="Lines.")


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
    | SandboxRestored
    | SandboxForked
    | SnapshotCreated
    | SnapshotRemoved
    | ToolCalled
    | AgentViolated
    | ProgramStarted
    | ProgramCloned
    | ProgramExited
    | FileOpened
    | ConnectionTried
    | TraceDropped
    | TraceFailed
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
    version: Literal[1] = Field(default=1, description="Version of the envelope and its types.")
    time: datetime = Field(description="UTC, when the host saw it.")
    seq: int = Field(ge=1, description="Gapless per sandbox.")
    source: Source = Field(default=Source.HOST, description="Who saw it.")
    assurance: Assurance = Field(
        default=Assurance.OBSERVED, description="Seen from outside, or only reported from inside."
    )
    tenant: str = Field(default="local", description="Whose sandbox.")
    sandbox: str | None = Field(
        default=None, description="Sandbox id; none for events of the machine, which have their own seq."
    )
    recorder: str = Field(
        default="", description="The process that recorded it; events of the machine are numbered per recorder."
    )
    trace_id: str = Field(default="", description="The caller's trace, if it gave one.")
    data: EventData = Field(description="What belongs to the type.")


def event_fields(event: Event) -> dict[str, object]:
    """Return the event as a JSON-able mapping, every field present, in the form that the schema describes."""
    return event.model_dump(mode="json")
