"""L4: makes sandboxes, watches them, and removes them; and the asynchronous API over that."""

from jubako.runtime.advice import async_doctor, async_explain
from jubako.runtime.files import AsyncFiles
from jubako.runtime.lifecycle import TRANSITIONS, SandboxState
from jubako.runtime.planner import DoctorReport, DriverHealth
from jubako.runtime.process import AsyncProcess
from jubako.runtime.result import RunResult
from jubako.runtime.sandbox import AsyncSandbox
from jubako.runtime.snapshots import Snapshot
from jubako.runtime.streams import AsyncConnection, AsyncReader, AsyncWriter
from jubako.runtime.supervisor import LEDGER, Runtime
from jubako.runtime.tools import Tool

__all__ = [
    "LEDGER",
    "TRANSITIONS",
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
]
