"""The blocking API. Written by scripts/gen_sync.py from the asynchronous one: do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from jubako.runtime import AsyncSandbox, async_doctor, async_explain
from jubako.sync.bridge import run_once, shared_bridge

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import PurePosixPath
    from types import TracebackType

    from jubako.boundary.card import Card
    from jubako.boundary.contract import ExitStatus, FileInfo, Usage, WatchEvent
    from jubako.policy import Policy
    from jubako.runtime import (
        AsyncConnection,
        AsyncFiles,
        AsyncProcess,
        AsyncReader,
        AsyncWriter,
        DoctorReport,
        RunResult,
        SandboxState,
        Snapshot,
    )
    from jubako.runtime.arguments import PolicyLike, Seconds, Terminal
    from jubako.runtime.files import GuestPath
    from jubako.runtime.tools import ToolLike
    from jubako.sync.bridge import Bridge

__all__ = ["Connection", "Files", "Process", "Reader", "Sandbox", "Writer", "doctor", "explain"]


class Reader:
    r"""One output stream of a program: iterate over it for text lines, or read text or bytes.

    Text is UTF-8; what isn't shows as U+FFFD. Lines end with ``\n`` as in a Python file. While only
    one of the two streams of a program is read, the other is kept in memory, up to the output limit.
    """

    def __init__(self, bridge: Bridge, inner: AsyncReader) -> None:
        self._bridge = bridge
        self._inner = inner

    def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes as soon as there are some, at most ``max_bytes``; ``b""`` at the end."""
        return self._bridge.call(self._inner.receive, max_bytes)

    def read_bytes(self) -> bytes:
        """Return everything up to the end of the stream."""
        return self._bridge.call(self._inner.read_bytes)

    def read(self) -> str:
        """Return everything up to the end of the stream as text."""
        return self._bridge.call(self._inner.read)

    def readline(self) -> str:
        r"""Return the next line with its ``\n``; without one at the end of the output; ``""`` after that."""
        return self._bridge.call(self._inner.readline)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return self._bridge.next(self._inner.next_ready, self._inner.__anext__)


class Writer:
    """The input of a program."""

    def __init__(self, bridge: Bridge, inner: AsyncWriter) -> None:
        self._bridge = bridge
        self._inner = inner

    def write(self, data: bytes | str) -> None:
        """Send ``data`` (text as UTF-8), waiting while the program doesn't read.

        Raises GuestConnectionError when the program has closed its input or ended.
        """
        self._bridge.call(self._inner.write, data)

    def close(self) -> None:
        """Let the program see the end of its input; idempotent."""
        self._bridge.call(self._inner.aclose)


class Connection:
    """A stream to a TCP port inside; close it when done, or use it as a context manager."""

    def __init__(self, bridge: Bridge, inner: AsyncConnection) -> None:
        self._bridge = bridge
        self._inner = inner

    def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises GuestConnectionError when the other side is gone."""
        self._bridge.call(self._inner.send, data)

    def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes, at most ``max_bytes``; ``b""`` when the other side has finished."""
        return self._bridge.call(self._inner.receive, max_bytes)

    def send_eof(self) -> None:
        """Tell the other side that no more bytes come; receiving goes on."""
        self._bridge.call(self._inner.send_eof)

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._bridge.call(self._inner.aclose)

    def __enter__(self) -> Self:
        self._bridge.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bridge.call(self._inner.__aexit__, kind, error, trace)


class Process:
    """A program that runs inside. As a context manager it ends the program on leaving.

    A program that writes a lot waits until its output is read. Reading one stream, or waiting,
    keeps the other stream in memory meanwhile, so that nothing blocks on what you don't read.
    """

    def __init__(self, bridge: Bridge, inner: AsyncProcess) -> None:
        self._bridge = bridge
        self._inner = inner

    @property
    def id(self) -> str:
        """The program's id within its sandbox, as events name it."""
        return self._inner.id

    @property
    def age(self) -> timedelta:
        """Wall time since it was started."""
        return self._inner.age

    @property
    def stdout(self) -> Reader:
        """The output; with a terminal everything."""
        return Reader(self._bridge, self._inner.stdout)

    @property
    def stderr(self) -> Reader:
        """The error output; empty with a terminal."""
        return Reader(self._bridge, self._inner.stderr)

    @property
    def stdin(self) -> Writer:
        """The input. Raises SandboxStateError when the program was started without ``stdin=True``."""
        return Writer(self._bridge, self._inner.stdin)

    def wait(self) -> ExitStatus:
        """Return how the program ended; unread output is kept in memory, up to the output limit."""
        return self._bridge.call(self._inner.wait)

    def result(self, stdin: bytes | str | None = None) -> RunResult:
        """Send ``stdin`` if given, read both streams to their ends, and return everything.

        Output of a background program that outlives this one is waited for a second at most.
        """
        return self._bridge.call(self._inner.result, stdin)

    def signal(self, number: int) -> None:
        """Send a signal to the program and all its descendants; no error when they are gone."""
        self._bridge.call(self._inner.signal, number)

    def kill(self) -> None:
        """End the program and all its descendants; idempotent."""
        self._bridge.call(self._inner.kill)

    def resize(self, rows: int, columns: int) -> None:
        """Change the terminal's size. Raises SandboxStateError when the program has no terminal."""
        self._bridge.call(self._inner.resize, rows, columns)

    def __enter__(self) -> Self:
        self._bridge.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bridge.call(self._inner.__aexit__, kind, error, trace)


class Files:
    """Files inside. Paths are the sandbox's own; relative ones are below its workspace.

    Failures raise GuestFileError or one of its kinds, which are also FileNotFoundError,
    PermissionError and so on.
    """

    def __init__(self, bridge: Bridge, inner: AsyncFiles) -> None:
        self._bridge = bridge
        self._inner = inner

    def read(self, path: GuestPath, *, limit: int = 64 * 1024 * 1024) -> bytes:
        """Return the whole file. Raises FileTooLargeError when it is longer than ``limit`` bytes."""
        return self._bridge.call(self._inner.read, path, limit=limit)

    def read_text(self, path: GuestPath, *, limit: int = 64 * 1024 * 1024) -> str:
        """Return the whole file as UTF-8 text. Raises FileTooLargeError, and ValueError when it isn't text."""
        return self._bridge.call(self._inner.read_text, path, limit=limit)

    def stream(self, path: GuestPath, *, limit: int | None = None) -> Generator[bytes, None, None]:
        """Yield the file in pieces, so that memory stays bounded; FileTooLargeError after ``limit`` bytes."""
        return self._bridge.iterate(self._inner.stream(path, limit=limit))

    def write(self, path: GuestPath, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write the file (text as UTF-8) under a temporary name, then rename it; makes parent directories."""
        self._bridge.call(self._inner.write, path, data, mode=mode)

    def list(self, path: GuestPath = ".", *, recursive: bool = False, limit: int = 100_000) -> list[FileInfo]:
        """Return the entries of a directory sorted by path; links are shown, not followed.

        Raises FileTooLargeError when there are more than ``limit``.
        """
        return self._bridge.call(self._inner.list, path, recursive=recursive, limit=limit)

    def stat(self, path: GuestPath) -> FileInfo:
        """Return the entry itself; a symbolic link is not followed. Raises GuestFileNotFoundError."""
        return self._bridge.call(self._inner.stat, path)

    def exists(self, path: GuestPath) -> bool:
        """Whether something has that name, a dangling link included."""
        return self._bridge.call(self._inner.exists, path)

    def mkdir(self, path: GuestPath, *, mode: int = 0o755, parents: bool = True) -> None:
        """Make a directory; one that exists is fine when ``parents`` is true."""
        self._bridge.call(self._inner.mkdir, path, mode=mode, parents=parents)

    def move(self, source: GuestPath, target: GuestPath, *, overwrite: bool = True) -> None:
        """Rename within the sandbox. Raises GuestFileExistsError when ``target`` exists and may not be replaced."""
        self._bridge.call(self._inner.move, source, target, overwrite=overwrite)

    def remove(self, path: GuestPath, *, recursive: bool = False) -> None:
        """Remove a file, link or empty directory; with ``recursive`` a tree, links not followed."""
        self._bridge.call(self._inner.remove, path, recursive=recursive)

    def chmod(self, path: GuestPath, mode: int) -> None:
        """Set the permission bits."""
        self._bridge.call(self._inner.chmod, path, mode)

    def watch(self, path: GuestPath = ".", *, recursive: bool = False) -> Generator[WatchEvent, None, None]:
        """Yield changes below a directory until the generator is closed: use ``contextlib.closing``."""
        return self._bridge.iterate(self._inner.watch(path, recursive=recursive))


class Sandbox:
    """One isolated place to run code in. Enter it to make it; leaving it removes every trace.

    Args:
        boundary: Kind of wall, or ``auto`` for the strongest that works on this machine.
        driver: A driver by name, instead of the boundary's first that works.
        policy: What the code may touch: a Policy, a mapping, a file's path or a preset's name.
        template: The root file system; ``host`` is the host's toolchain, read-only.
        name: A name that no other live sandbox of this user has.
        ttl: Seconds until it is destroyed, at most the policy's ``time.sandbox``.
        labels: Free labels for lists and events.
        tools: Host functions that programs inside may call: exactly those that the policy grants by name.
        preload: Python modules to import once; ``run`` starts Python as a fork of what has them.

    Raises:
        InvalidPolicyError: The policy is wrong.
        InvalidRequestError: Another argument is.
    """

    def __init__(
        self,
        *,
        boundary: str = "auto",
        driver: str | None = None,
        policy: PolicyLike = None,
        template: str = "host",
        name: str | None = None,
        ttl: Seconds = None,
        labels: Mapping[str, str] | None = None,
        tools: Sequence[ToolLike] = (),
        preload: Sequence[str] = (),
    ) -> None:
        self._bridge = shared_bridge("Sandbox")
        self._inner = AsyncSandbox(
            boundary=boundary,
            driver=driver,
            policy=policy,
            template=template,
            name=name,
            ttl=ttl,
            labels=labels,
            tools=tools,
            preload=preload,
            runtime=self._bridge.runtime,
        )

    @classmethod
    def _around(cls, bridge: Bridge, inner: AsyncSandbox) -> Self:
        made = cls.__new__(cls)
        made._bridge, made._inner = bridge, inner  # noqa: SLF001  # of this class
        return made

    @classmethod
    def restore(
        cls,
        snapshot: Snapshot | str,
        *,
        policy: PolicyLike = None,
        name: str | None = None,
        ttl: Seconds = None,
        labels: Mapping[str, str] | None = None,
        tools: Sequence[ToolLike] = (),
    ) -> Self:
        """Return a sandbox that goes on from a snapshot once it is entered, with an identity of its own.

        Its random numbers, host name and machine id differ from those of all others. It stands behind
        the same boundary as the snapshot's sandbox and has at most its rights. Entering it raises
        SnapshotNotFoundError or SnapshotIncompatibleError where it can't be restored here.

        Args:
            snapshot: A snapshot, its name, or the beginning of its digest.
            policy: What narrows the rights further; those of the snapshot's sandbox when left out.
            name: A name that no other live sandbox of this user has.
            ttl: Seconds until it is destroyed, at most the policy's ``time.sandbox``.
            labels: Free labels for lists and events.
            tools: Host functions that programs inside may call: exactly those that the policy grants by name.
        """
        bridge = shared_bridge("Sandbox")
        return cls._around(
            bridge,
            AsyncSandbox.restore(
                snapshot, policy=policy, name=name, ttl=ttl, labels=labels, tools=tools, runtime=bridge.runtime
            ),
        )

    def start(self) -> None:
        """Make the sandbox and start it; whoever calls this calls ``destroy``. Entering does both.

        Raises PolicyNotEnforceableError when a required control would not hold here, and
        DriverUnavailableError, LaunchError or NameTakenError; then nothing is left.
        """
        self._bridge.call(self._inner.start)

    def __enter__(self) -> Self:
        self._bridge.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bridge.call(self._inner.__aexit__, kind, error, trace)

    @property
    def id(self) -> str:
        """The sandbox's id, as events and records name it."""
        return self._inner.id

    @property
    def state(self) -> SandboxState:
        """Where it is in its life."""
        return self._inner.state

    @property
    def expires(self) -> datetime:
        """When it will be destroyed by itself."""
        return self._inner.expires

    @property
    def files(self) -> Files:
        """The files inside."""
        return Files(self._bridge, self._inner.files)

    @property
    def policy(self) -> Policy:
        """What the code may touch."""
        return self._inner.policy

    @property
    def preload(self) -> tuple[str, ...]:
        """The modules that Python has imported already where ``run`` starts it."""
        return self._inner.preload

    def card(self) -> Card:
        """Return the card: the boundary, what the code may touch, and how far each control holds."""
        return self._inner.card()

    def run(
        self,
        code: str,
        *,
        language: str = "python",
        timeout: Seconds = None,
        env: Mapping[str, str] | None = None,
        cwd: str | PurePosixPath | None = None,
        stdin: bytes | str | None = None,
        check: bool = False,
    ) -> RunResult:
        """Run a piece of code to its end and return everything about it.

        Each call is a new program; files stay. A failing or killed program is a result, unless
        ``check`` is true: then it raises CommandFailedError, ExecTimeoutError or OutputLimitError.

        Args:
            code: The source code.
            language: ``python``, ``bash``, ``node``, ``js``, or ``javascript`` for either of these two; the
                interpreter must exist inside.
            timeout: Seconds, at most the policy's ``time.exec``.
            env: Variables besides the sandbox's own.
            cwd: Where it starts; the workspace when left out.
            stdin: Its input; empty when left out.
            check: Whether anything but success is an error.
        """
        return self._bridge.call(
            self._inner.run, code, language=language, timeout=timeout, env=env, cwd=cwd, stdin=stdin, check=check
        )

    def run_file(
        self,
        path: str | PurePosixPath,
        *arguments: str,
        language: str | None = None,
        timeout: Seconds = None,
        env: Mapping[str, str] | None = None,
        cwd: str | PurePosixPath | None = None,
        stdin: bytes | str | None = None,
        check: bool = False,
    ) -> RunResult:
        """Run a file that is inside to its end and return everything about it, as ``run`` does.

        Args:
            path: The file; relative to the workspace.
            *arguments: What the program finds in its argument vector.
            language: How to run it; its name's ending tells it when left out. ``.wasm`` needs the boundary ``wasm``.
            timeout: Seconds, at most the policy's ``time.exec``.
            env: Variables besides the sandbox's own.
            cwd: Where it starts; the workspace when left out.
            stdin: Its input; empty when left out.
            check: Whether anything but success is an error.
        """
        return self._bridge.call(
            self._inner.run_file,
            path,
            *arguments,
            language=language,
            timeout=timeout,
            env=env,
            cwd=cwd,
            stdin=stdin,
            check=check,
        )

    def command(
        self, *, code: str | None = None, file: str | PurePosixPath | None = None, language: str | None = None
    ) -> tuple[str, ...]:
        """Return the argument vector that runs a short piece of code, or a file inside, for ``exec``.

        Raises InvalidRequestError where the language can't be told, or isn't one.
        """
        return self._inner.command(code=code, file=file, language=language)

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: Seconds = None,
        env: Mapping[str, str] | None = None,
        cwd: str | PurePosixPath | None = None,
        stdin: bool = False,
        tty: Terminal = False,
        max_output: int | None = None,
        preloaded: bool = False,
    ) -> Process:
        """Start a program and return it while it runs.

        Args:
            argv: Its name, looked up in the sandbox's PATH, and its arguments.
            timeout: Seconds, at most the policy's ``time.exec``; then its whole tree is killed.
            env: Variables besides the sandbox's own.
            cwd: Where it starts; the workspace when left out.
            stdin: Whether its input stays open for writing.
            tty: Whether it gets a terminal, or the terminal's size.
            max_output: Bytes of both outputs together, at most the policy's ``output.max_bytes``.
            preloaded: Whether to start it, a ``python3`` command, as a fork of what has imported ``preload``.
        """
        return Process(
            self._bridge,
            self._bridge.call(
                self._inner.exec,
                argv,
                timeout=timeout,
                env=env,
                cwd=cwd,
                stdin=stdin,
                tty=tty,
                max_output=max_output,
                preloaded=preloaded,
            ),
        )

    def usage(self) -> Usage:
        """Return what the sandbox has used so far."""
        return self._bridge.call(self._inner.usage)

    def connect(self, port: int) -> Connection:
        """Open a stream to a TCP port on the sandbox's loopback. Raises GuestConnectionError."""
        return Connection(self._bridge, self._bridge.call(self._inner.connect, port))

    def pause(self) -> None:
        """Freeze everything inside. Raises InvalidRequestError where the machine can't."""
        self._bridge.call(self._inner.pause)

    def resume(self) -> None:
        """Let everything inside go on."""
        self._bridge.call(self._inner.resume)

    def stop(self, *, grace: float = 5.0) -> None:
        """Ask everything inside to end, and end it after ``grace`` seconds. Files can't be read afterwards."""
        self._bridge.call(self._inner.stop, grace=grace)

    def destroy(self) -> None:
        """Remove every trace of the sandbox, from any state; idempotent."""
        self._bridge.call(self._inner.destroy)

    def snapshot(self, name: str | None = None) -> Snapshot:
        """Write the sandbox down, so that others can go on from here; this one goes on too.

        Raises SandboxStateError while programs run inside, InvalidRequestError where the boundary can't,
        NameTakenError, and SnapshotError when it can't be written; then nothing is left.
        """
        return self._bridge.call(self._inner.snapshot, name)

    def fork(self, count: int = 1, *, ttl: Seconds = None) -> list[Sandbox]:
        """Return ``count`` running sandboxes that go on from here, all or none; this one goes on too.

        Each has an identity of its own and this one's rights, with what is left of its budgets. Destroy
        them, or use them as context managers; they end with this one's runtime at the latest.

        Args:
            count: How many, at most 1000.
            ttl: Seconds until each is destroyed, at most the policy's ``time.sandbox``.
        """
        return [Sandbox._around(self._bridge, inner) for inner in self._bridge.call(self._inner.fork, count, ttl=ttl)]


def explain(
    *, boundary: str = "auto", driver: str | None = None, policy: PolicyLike = None, template: str = "host"
) -> Card:
    """Return the card of a sandbox with these arguments, without making it.

    A card may show controls that would refuse the launch: see ``Card.refusals``. Raises
    DriverUnavailableError when no such boundary works here.
    """
    return run_once(async_explain, boundary=boundary, driver=driver, policy=policy, template=template)


def doctor() -> DoctorReport:
    """Return which drivers work here, how each control would hold, and what to do about the rest."""
    return run_once(async_doctor)
