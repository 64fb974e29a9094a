"""What a session is given, and what it learns about the agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AgentHello",
    "LandlockConfig",
    "LauncherConfig",
    "MaskedPath",
    "PrivateMount",
    "SessionConfig",
    "SessionHooks",
    "SessionLimits",
]


@dataclass(frozen=True, slots=True)
class LandlockConfig:
    """Paths inside for the second wall; one that does not exist there is skipped.

    ``readable`` paths can be read and executed below, ``writable`` ones do everything but make device
    nodes. Directories and single files may be listed. With ``required`` the session does not open
    unless the wall stands.
    """

    readable: tuple[str, ...] = ("/",)
    writable: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class LauncherConfig:
    """A warm process that the agent starts inside, and that starts programs as forks of itself.

    ``argv`` is its program, to which the agent appends the number of its socket's descriptor; ``env``
    is added to the session's. With ``everything`` it gets every program, else only requests that say
    ``preloaded``. ``ready`` bounds its start, which ``GuestSession.launch`` or the first such program causes
    and nothing else waits for.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    everything: bool = False
    ready: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class PrivateMount:
    """A tmpfs that the agent mounts for itself before it serves: sizes in bytes, ``inodes`` files at most."""

    path: str
    size: int
    inodes: int
    mode: int = 0o755

    def entry(self) -> bytes:
        """Return the mount as the agent reads it: path, NUL, options."""
        return f"{self.path}\0size={self.size},nr_inodes={self.inodes},mode={self.mode:o}".encode()


@dataclass(frozen=True, slots=True)
class MaskedPath:
    """What the agent covers before it serves: a file by /dev/null, a directory by an empty one that can't change."""

    path: str
    directory: bool

    def entry(self) -> bytes:
        """Return the cover as the agent reads it: path, NUL, options for a directory."""
        return f"{self.path}\0{'ro,size=4096,nr_inodes=2,mode=555' if self.directory else ''}".encode()


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds of a session. ``window`` is the credit per channel in bytes; times are grace periods."""

    window: int = 262144
    streams: int = 256
    drain: timedelta = timedelta(milliseconds=250)
    """How long output of background children is still passed on after the program's exit."""
    handshake: timedelta = timedelta(seconds=30)
    kill: timedelta = timedelta(seconds=10)
    """How long the agent may take to confirm that a tree is dead before the sandbox is killed."""
    tool_calls: int = 16
    """How many calls to host functions run at once; more wait inside."""
    tool_rate: int = 500
    """How many calls to host functions a second are taken on, after a burst of as many."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What the agent is told. ``rlimits`` maps Linux RLIMIT numbers to (soft, hard); -1 is unlimited."""

    workspace: PurePosixPath = PurePosixPath("/workspace")  # noqa: RUF009  # immutable
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    path: str = "/usr/local/bin:/usr/bin:/bin"
    user: str = ""
    rlimits: Mapping[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    landlock: LandlockConfig | None = None
    mounts: tuple[PrivateMount, ...] = ()
    """Private tmpfs mounts; the driver leaves the agent the capability to make them."""
    masks: tuple[MaskedPath, ...] = ()
    """Paths to cover, by the same capability."""
    seccomp: bytes = b""
    """A filter program. With one the agent gives up all capabilities and puts itself behind it."""
    renewable: bool = False
    """Whether the agent keeps what it takes to give a restored sandbox another host name; programs never get it."""
    launcher: LauncherConfig | None = None
    """What starts some or all programs in place of the agent."""
    on_limit: Literal["truncate", "kill"] = "truncate"
    tools: str = "@jubako-tools"
    """The unix socket for calls to host functions, where a session has them: a path, or abstract with ``@``."""
    limits: SessionLimits = field(default_factory=SessionLimits)


@dataclass(frozen=True, slots=True)
class AgentHello:
    """What the agent said about itself: reported from inside, so not to be relied on for a control.

    ``landlock_abi`` is 0 where the kernel has none; ``landlock_note`` says why it was not applied.
    """

    protocol: int
    agent: str
    python: str
    pid: int
    uid: int
    features: frozenset[str]
    landlock_abi: int
    landlock: bool
    landlock_note: str


class SessionHooks(Protocol):
    """What a session asks of its driver. All three are plain calls, quick, and don't raise."""

    def limit_counters(self) -> Mapping[str, int]:
        """Return how often each control was run into so far, by control id."""
        ...

    def on_violation(self, rule: str) -> None:
        """Note that the guest broke the protocol; called once, before ``kill_instance``."""
        ...

    def kill_instance(self) -> None:
        """Kill everything inside; idempotent."""
        ...
