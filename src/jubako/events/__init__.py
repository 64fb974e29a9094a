"""L1: what is recorded, in which shape."""

from jubako.events.model import (
    AgentViolated,
    Assurance,
    Event,
    EventData,
    ExecExited,
    ExecStarted,
    FileTransferred,
    LimitReached,
    PolicyRelaxed,
    ProbeCompleted,
    SandboxCreated,
    SandboxReaped,
    SandboxRefused,
    SandboxStateChanged,
    Source,
)

__all__ = [
    "AgentViolated",
    "Assurance",
    "Event",
    "EventData",
    "ExecExited",
    "ExecStarted",
    "FileTransferred",
    "LimitReached",
    "PolicyRelaxed",
    "ProbeCompleted",
    "SandboxCreated",
    "SandboxReaped",
    "SandboxRefused",
    "SandboxStateChanged",
    "Source",
]
