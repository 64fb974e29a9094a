"""L2: the host's side of the agent that runs inside every sandbox."""

from jubako.guest.bundle import agent_file, bundle_agent, bundle_program, tools_directory, tools_module
from jubako.guest.config import (
    AgentHello,
    LandlockConfig,
    LauncherConfig,
    MaskedPath,
    PrivateMount,
    SessionConfig,
    SessionHooks,
    SessionLimits,
)
from jubako.guest.launcher import launcher_text, preload_launcher
from jubako.guest.process import GuestProcess
from jubako.guest.renewal import Identity
from jubako.guest.session import GuestSession
from jubako.guest.stream import SocketStream

__all__ = [
    "AgentHello",
    "GuestProcess",
    "GuestSession",
    "Identity",
    "LandlockConfig",
    "LauncherConfig",
    "MaskedPath",
    "PrivateMount",
    "SessionConfig",
    "SessionHooks",
    "SessionLimits",
    "SocketStream",
    "agent_file",
    "bundle_agent",
    "bundle_program",
    "launcher_text",
    "preload_launcher",
    "tools_directory",
    "tools_module",
]
