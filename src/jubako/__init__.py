"""jubako runs untrusted AI-written code behind the right boundary: threat model in, proven boundary out.

Names are imported when first used, so that ``import jubako`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jubako._version import __version__

if TYPE_CHECKING:
    from jubako.boundary.card import Card
    from jubako.boundary.contract import ExitStatus, FileInfo, FileKind, TerminalSize, Usage, WatchEvent, WatchKind
    from jubako.errors import JubakoError, ToolError
    from jubako.policy import Policy, SandboxSpec, ToolGrant
    from jubako.runtime import (
        AsyncConnection,
        AsyncFiles,
        AsyncProcess,
        AsyncReader,
        AsyncSandbox,
        AsyncWriter,
        DoctorReport,
        DriverHealth,
        RunResult,
        Runtime,
        SandboxState,
        Snapshot,
        Tool,
        async_doctor,
        async_explain,
    )
    from jubako.sync import Connection, Files, Process, Reader, Sandbox, Writer, doctor, explain

__all__ = [
    "AsyncConnection",
    "AsyncFiles",
    "AsyncProcess",
    "AsyncReader",
    "AsyncSandbox",
    "AsyncWriter",
    "Card",
    "Connection",
    "DoctorReport",
    "DriverHealth",
    "ExitStatus",
    "FileInfo",
    "FileKind",
    "Files",
    "JubakoError",
    "Policy",
    "Process",
    "Reader",
    "RunResult",
    "Runtime",
    "Sandbox",
    "SandboxSpec",
    "SandboxState",
    "Snapshot",
    "TerminalSize",
    "Tool",
    "ToolError",
    "ToolGrant",
    "Usage",
    "WatchEvent",
    "WatchKind",
    "Writer",
    "__version__",
    "async_doctor",
    "async_explain",
    "doctor",
    "explain",
]

_HOMES = {
    "jubako.boundary.card": ("Card",),
    "jubako.boundary.contract": (
        "ExitStatus",
        "FileInfo",
        "FileKind",
        "TerminalSize",
        "Usage",
        "WatchEvent",
        "WatchKind",
    ),
    "jubako.errors": ("JubakoError", "ToolError"),
    "jubako.policy": ("Policy", "SandboxSpec", "ToolGrant"),
    "jubako.runtime": (
        "AsyncConnection",
        "AsyncFiles",
        "AsyncProcess",
        "AsyncReader",
        "AsyncSandbox",
        "AsyncWriter",
        "DoctorReport",
        "DriverHealth",
        "RunResult",
        "Runtime",
        "SandboxState",
        "Snapshot",
        "Tool",
        "async_doctor",
        "async_explain",
    ),
    "jubako.sync": ("Connection", "Files", "Process", "Reader", "Sandbox", "Writer", "doctor", "explain"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            import importlib  # kept out of start-up

            value: object = getattr(importlib.import_module(home), name)
            globals()[name] = value
            return value
    msg = f"module 'jubako' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
