"""L1: what the code inside may touch."""

from jubako.policy.controls import CONTROLS, Control
from jubako.policy.load import invalid_policy, load_policy, loads_policy
from jubako.policy.model import (
    AcceptWeaker,
    DataPolicy,
    EnvironmentPolicy,
    FilePolicy,
    Mount,
    NetworkPolicy,
    ObservePolicy,
    OutputPolicy,
    Policy,
    Relaxation,
    ResourcePolicy,
    SandboxSpec,
    SecretClause,
    SyscallPolicy,
    TimePolicy,
    ToolGrant,
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
    "ObservePolicy",
    "OutputPolicy",
    "Policy",
    "Relaxation",
    "ResourcePolicy",
    "SandboxSpec",
    "SecretClause",
    "SyscallPolicy",
    "TimePolicy",
    "ToolGrant",
    "WritableMount",
    "invalid_policy",
    "load_policy",
    "loads_policy",
    "summarize",
]
