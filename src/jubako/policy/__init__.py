"""L1: what the code inside may touch."""

from jubako.policy.controls import CONTROLS, Control
from jubako.policy.model import (
    AcceptWeaker,
    DataPolicy,
    EnvironmentPolicy,
    FilePolicy,
    Mount,
    NetworkPolicy,
    OutputPolicy,
    Policy,
    Relaxation,
    ResourcePolicy,
    SandboxSpec,
    SecretClause,
    SyscallPolicy,
    TimePolicy,
    WritableMount,
)
from jubako.policy.summary import summarize

__all__ = [
    "CONTROLS",
    "AcceptWeaker",
    "Control",
    "DataPolicy",
    "EnvironmentPolicy",
    "FilePolicy",
    "Mount",
    "NetworkPolicy",
    "OutputPolicy",
    "Policy",
    "Relaxation",
    "ResourcePolicy",
    "SandboxSpec",
    "SecretClause",
    "SyscallPolicy",
    "TimePolicy",
    "WritableMount",
    "summarize",
]
