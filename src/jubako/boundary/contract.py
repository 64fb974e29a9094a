"""The driver contract: what every boundary must do, and nothing about how.

Rules that the conformance suite (``jubako.testing.conformance``) checks:

1. The runtime decides, the driver reports: ``plan`` says how each control would be met; a required
   control that is not met refuses the launch before ``create`` is called.
2. ``plan`` is pure: same spec and report, same plan. It touches no file, clock or process.
3. A command that fails, or whose executable is missing, is an ``ExitStatus``. A driver that fails is
   an exception below ``JubakoError``.
4. Cancelling an operation ends what it started.
5. Limits on output and files travel in the request and are held on the host side.
6. Features are declared in the probe report; behaviour must match the declaration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from jubako._lib.levels import Enforcement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path, PurePosixPath

    from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream, TaskGroup

    from jubako.events import EventData
    from jubako.policy import SandboxSpec

__all__ = [
    "Attestable",
    "BoundaryKind",
    "ControlResult",
    "Driver",
    "DriverContext",
    "EgressLink",
    "Enforcement",
    "ExecRequest",
    "ExitStatus",
    "Feature",
    "FileInfo",
    "FileKind",
    "Files",
    "Forkable",
    "Instance",
    "InstanceExit",
    "InstanceRef",
    "Pausable",
    "Plan",
    "PortForwarding",
    "ProbeReport",
    "Process",
    "Reason",
    "Restorer",
    "SnapshotRef",
    "Snapshottable",
    "TerminalSize",
    "ToolLink",
    "Usage",
    "WatchEvent",
    "WatchKind",
]

Fact = str | int | bool | None


class BoundaryKind(StrEnum):
    """The kind of wall, from the thinnest to the thickest."""

    WASM = "wasm"
    PROCESS = "process"
    GVISOR = "gvisor"
    MICROVM = "microvm"
    VM = "vm"
    CONFIDENTIAL = "confidential"


class Feature(StrEnum):
    """Optional abilities of a driver; each has a protocol below or a rule in the suite.

    ``PROCESSES``: programs can start programs, and there is a POSIX shell. ``PRELOAD``: programs can
    start as forks of an interpreter that has imported modules already (``SandboxSpec.preload``).
    ``TOOLS``: programs can call the host functions that the policy grants (``DriverContext.tools``).
    """

    ATTEST = "attest"
    BACKGROUND = "background"
    FORK = "fork"
    PAUSE = "pause"
    PORTS = "ports"
    PRELOAD = "preload"
    PROCESSES = "processes"
    SIGNALS = "signals"
    SNAPSHOT = "snapshot"
    TOOLS = "tools"
    TTY = "tty"
    WATCH = "watch"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is missing or weaker, and what a person can do about it."""

    code: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ControlResult:
    """How one driver would meet one control, by which mechanism, and why not better."""

    control: str
    level: Enforcement
    mechanism: str
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What this machine can do for one driver. ``facts`` is all that ``plan`` may look at."""

    available: bool
    version: str | None
    features: frozenset[Feature]
    reasons: tuple[Reason, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict[str, Fact])


@dataclass(frozen=True, slots=True)
class Plan:
    """The pure result of spec and probe report: every control with its enforcement.

    ``payload`` is the driver's own launch data (argument vectors, limits); JSON-able, no secrets.
    """

    driver: str
    boundary: BoundaryKind
    spec: SandboxSpec
    controls: tuple[ControlResult, ...]
    features: frozenset[Feature] = frozenset()
    payload: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class InstanceRef:
    """Names one instance across a crash: ``handle`` is the sandbox id, ``owner`` the process that made it."""

    driver: str
    handle: str
    owner: str


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Size of a pseudo-terminal in character cells, 1 to 4096 each."""

    rows: int = 24
    columns: int = 80


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """One program to start inside.

    ``argv[0]`` is looked up in the sandbox's PATH when it has no slash. ``env`` is added to the
    sandbox's own environment. ``tty`` gives the program a terminal: stdout then carries everything
    and stderr is empty at once. ``max_output`` counts stdout and stderr together, in bytes; what is
    over it is drained and dropped and the status says ``truncated``. ``timeout`` kills the tree.
    ``preloaded`` starts ``argv``, a ``python3`` command, as a fork of the preloaded interpreter.
    """

    argv: tuple[str, ...]
    cwd: PurePosixPath | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str | None = None
    tty: TerminalSize | None = None
    stdin: bool = False
    timeout: timedelta | None = None
    max_output: int = 10 * 1024 * 1024
    preloaded: bool = False


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a program ended. Exactly one of ``code`` and ``signal`` is set.

    A missing executable has code 127, one that may not be executed 126, with the reason in
    ``message``. ``limits`` holds the ids of the controls that the program ran into, such as
    ``resource.memory``, ``resource.processes``, ``resource.output`` and ``time.exec``.
    """

    code: int | None
    signal: int | None
    oom: bool = False
    timed_out: bool = False
    truncated: bool = False
    limits: frozenset[str] = frozenset()
    message: str = ""


@dataclass(frozen=True, slots=True)
class InstanceExit:
    """Why an instance is gone. ``code`` is an error code of ``jubako.errors`` or "destroyed"."""

    code: str
    message: str = ""
    limits: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Usage:
    """What an instance has used so far: CPU time, bytes. ``None`` where the machine can't tell."""

    at: datetime
    cpu: timedelta | None
    memory: int | None
    memory_peak: int | None
    processes: int | None
    disk: int | None


class FileKind(StrEnum):
    """What a directory entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One entry as the guest reports it: never used as a path on the host. ``size`` in bytes."""

    path: PurePosixPath
    kind: FileKind
    size: int
    mode: int
    modified: datetime
    target: str | None = None


class WatchKind(StrEnum):
    """What happened to a watched path."""

    CREATED = "created"
    MODIFIED = "modified"
    REMOVED = "removed"
    MOVED = "moved"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change below a watched directory; ``LOST`` says that some went unseen."""

    kind: WatchKind
    path: PurePosixPath


class Process(Protocol):
    """A program running inside. Streams give bytes; the caller must read them or the program blocks."""

    @property
    def id(self) -> str:
        """The program's id, of its own within the sandbox."""
        ...

    @property
    def stdin(self) -> ByteSendStream | None:
        """Where input goes; None unless the request asked for it."""
        ...

    @property
    def stdout(self) -> ByteReceiveStream:
        """What it writes; with a terminal everything."""
        ...

    @property
    def stderr(self) -> ByteReceiveStream:
        """What it writes to its error output; with a terminal at its end at once."""
        ...

    async def wait(self) -> ExitStatus:
        """Return how the program ended; again and again the same."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to the program and all its descendants; no error when they are gone."""
        ...

    async def kill(self) -> None:
        """End the program and all its descendants; idempotent."""
        ...

    async def resize(self, size: TerminalSize) -> None:
        """Change the terminal's size. Raises SandboxStateError when the program has no terminal."""
        ...


class Files(Protocol):
    """Files inside. Relative paths are below the workspace; limits are held on the host side."""

    async def read(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> bytes:
        """Return the whole file. Raises FileTooLargeError over ``limit`` bytes, GuestFileError otherwise."""
        ...

    def stream(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the file in chunks, so that memory stays bounded."""
        ...

    async def write(self, path: PurePosixPath, data: bytes | AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Write the file at once (temporary name, then rename), making parent directories."""
        ...

    def scan(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[FileInfo]:
        """Yield the entries of a directory, unsorted; symbolic links are reported, not followed."""
        ...

    async def stat(self, path: PurePosixPath) -> FileInfo:
        """Return the entry itself; a symbolic link is not followed."""
        ...

    async def mkdir(self, path: PurePosixPath, *, mode: int = 0o755, parents: bool = True) -> None:
        """Make a directory; one that exists is fine when ``parents`` is true."""
        ...

    async def move(self, source: PurePosixPath, target: PurePosixPath, *, overwrite: bool = True) -> None:
        """Rename within the sandbox."""
        ...

    async def chmod(self, path: PurePosixPath, mode: int) -> None:
        """Set the permission bits."""
        ...

    async def remove(self, path: PurePosixPath, *, recursive: bool = False) -> None:
        """Remove a file, link or empty directory; with ``recursive`` a tree, links not followed."""
        ...

    def watch(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[WatchEvent]:
        """Yield changes below a directory until the iterator is closed."""
        ...


class Instance(Protocol):
    """One sandbox made by a driver."""

    @property
    def ref(self) -> InstanceRef:
        """What names this instance across a crash."""
        ...

    @property
    def files(self) -> Files:
        """The files inside."""
        ...

    async def start(self) -> None:
        """Start the first process inside; afterwards ``exec`` and ``files`` work."""
        ...

    async def exec(self, request: ExecRequest) -> Process:
        """Start a program. Raises InvalidRequestError, SandboxStateError or InstanceLostError."""
        ...

    async def usage(self) -> Usage:
        """Return what was used so far, measured from outside where the machine can."""
        ...

    async def wait(self) -> InstanceExit:
        """Return why the instance is gone, once it is; a death that nobody asked for shows within a second."""
        ...

    async def stop(self, *, grace: timedelta) -> None:
        """Ask everything inside to end (SIGTERM), then end it; nothing runs afterwards."""
        ...

    async def destroy(self) -> None:
        """Remove every trace, from any state, idempotent, also under cancellation."""
        ...


class EgressLink(Protocol):
    """The broker's side of one sandbox's network; none exists until the egress broker does."""

    async def attach(self, netns: Path | None) -> Mapping[str, str]:
        """Wire the sandbox to the broker; return the variables that programs inside need."""
        ...

    async def detach(self) -> None:
        """Cut the sandbox off; idempotent."""
        ...


class ToolLink(Protocol):
    """The host functions that one sandbox may call; allow-list, schema and budget are held behind it."""

    async def call(self, tool: str, arguments: bytes) -> bytes:
        """Return the answer to one call: a JSON object ``{"result": ...}`` or ``{"error": {...}}``.

        ``tool`` and ``arguments`` (JSON text) come from the guest unchecked, bounded in size by the
        driver. Never raises for what the guest sent.
        """
        ...


@dataclass(frozen=True, slots=True)
class DriverContext:
    """Everything a driver is given; drivers import no service code.

    ``state_dir`` is a private directory of this instance, made by the caller and removed by it.
    ``tasks`` outlives the instance; background work of the instance runs there and never raises.
    ``tools`` is None where the policy grants none.
    """

    sandbox_id: str
    owner: str
    state_dir: Path
    tasks: TaskGroup
    emit: Callable[[EventData], None]
    egress: EgressLink | None = None
    tools: ToolLink | None = None


class Driver(Protocol):
    """One per mechanism; stateless besides caches."""

    name: ClassVar[str]
    boundary: ClassVar[BoundaryKind]

    async def probe(self) -> ProbeReport:
        """Say what this machine can do, with reasons and remedies; never raises for "absent"."""
        ...

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """Say how each control of the spec would be met. Pure.

        Raises InvalidPolicyError where the spec can't be expressed at all.
        """
        ...

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Build the walls, all or nothing. Raises LaunchError or DriverUnavailableError."""
        ...

    async def attach(self, ref: InstanceRef, ctx: DriverContext) -> Instance:
        """Take over an instance that a dead owner left running. Raises InstanceLostError if it can't live on."""
        ...

    async def orphans(self, owner: str | None) -> Sequence[InstanceRef]:
        """List what instances of ``owner`` (of anybody, for None) have left on this machine."""
        ...

    async def reap(self, ref: InstanceRef) -> None:
        """End and remove whatever ``ref`` left behind; idempotent. Pre: its owner is dead."""
        ...

    async def aclose(self) -> None:
        """Free caches; instances are not touched."""
        ...


@dataclass(frozen=True, slots=True)
class SnapshotRef:
    """Names a snapshot by content: ``digest`` is the SHA-256, in hex, over the driver's files of it.

    ``requires`` holds what must be the same where it is restored (versions, kernel, CPU, protocol).
    """

    driver: str
    digest: str
    parent: str | None
    requires: Mapping[str, str] = field(default_factory=dict[str, str])


@runtime_checkable
class Pausable(Protocol):
    """Instances whose driver reports ``Feature.PAUSE``: nothing inside runs between the two calls."""

    async def pause(self) -> None:
        """Freeze everything inside."""
        ...

    async def resume(self) -> None:
        """Let everything inside go on."""
        ...


@runtime_checkable
class Snapshottable(Protocol):
    """Instances whose driver reports ``Feature.SNAPSHOT``; the driver is then a ``Restorer``."""

    async def snapshot(self, directory: Path, *, memory: bool) -> SnapshotRef:
        """Write the sandbox down into ``directory``, empty and private; it goes on running afterwards.

        Raises SandboxStateError while programs started by ``exec`` run: a restored child would have
        nobody to hear them. Raises SnapshotError when it can't be written; the sandbox goes on.
        """
        ...


@runtime_checkable
class Restorer(Protocol):
    """Drivers that make an instance from a snapshot."""

    async def restore(self, ref: SnapshotRef, directory: Path, plan: Plan, ctx: DriverContext) -> Instance:
        """Make an instance that goes on from the snapshot in ``directory`` once it is started.

        It has an identity of its own: random seeds, host name, machine id. ``directory`` is only read
        and stays until the instance is destroyed. Raises SnapshotIncompatibleError when ``ref`` does
        not fit this machine, driver version or plan, SnapshotError when the files are not those that it
        names, and LaunchError.
        """
        ...


@runtime_checkable
class Forkable(Protocol):
    """Instances that can be multiplied while they run."""

    async def fork(self, contexts: Sequence[DriverContext]) -> Sequence[Instance]:
        """Make one started instance a context, all or none, that go on from here as ``Restorer.restore`` has it."""
        ...


@runtime_checkable
class Attestable(Protocol):
    """Instances that can prove what they run on."""

    async def evidence(self, nonce: bytes) -> bytes:
        """Return evidence of what this runs on, bound to ``nonce``."""
        ...


@runtime_checkable
class PortForwarding(Protocol):
    """Instances whose driver reports ``Feature.PORTS``."""

    async def connect(self, port: int) -> ByteStream:
        """Open a stream to a TCP port on the guest's loopback. Raises GuestConnectionError."""
        ...
