"""A sandbox as the checks use it: short ways to run programs and to look around."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, TypedDict, Unpack, cast

import anyio

from jubako.boundary.contract import ExecRequest, Feature
from jubako.testing.conformance._programs import CAT, IDLE, LS, MAKE, MODE, PIPE, SHOW

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping
    from contextlib import AbstractContextManager

    from anyio.abc import ByteReceiveStream

    from jubako.boundary.contract import Enforcement, ExitStatus, Files, Instance, Plan, Process, TerminalSize

__all__ = [
    "Finished",
    "Guest",
    "Options",
    "Toolchain",
    "collect",
    "eventually",
    "host_processes",
    "marker",
    "patient",
    "read_all",
    "read_until",
    "single_error",
    "soon",
    "stretched",
]

_PATIENCE: Final[ContextVar[float]] = ContextVar("patience", default=1.0)
"""How many times longer than usual the running check waits for anything."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The programs inside that the checks rely on, up to where the program text goes.

    The shell is used by checks only that need ``Feature.PROCESSES``.
    """

    shell: tuple[str, ...] = ("/bin/sh", "-c")
    python: tuple[str, ...] = ("python3", "-c")


class Options(TypedDict, total=False):
    """What a program may be started with besides its arguments."""

    cwd: str
    env: Mapping[str, str]
    user: str
    tty: TerminalSize
    stdin: bool
    timeout: float
    max_output: int
    preloaded: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended, with all that it wrote."""

    status: ExitStatus
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, surrounding white space removed."""
        return self.stdout.decode("utf-8", "surrogateescape").strip()


@dataclass(frozen=True, slots=True)
class Guest:
    """One instance, the plan it was made by, and the programs inside."""

    instance: Instance
    plan: Plan
    toolchain: Toolchain = field(default_factory=Toolchain)

    @property
    def files(self) -> Files:
        """The instance's files."""
        return self.instance.files

    @property
    def workspace(self) -> PurePosixPath:
        """Where the policy puts the workspace."""
        return PurePosixPath(self.plan.spec.policy.files.workspace)

    def level(self, control: str) -> Enforcement | None:
        """Return how far the plan says that a control holds, or None when it doesn't mention it."""
        return next((item.level for item in self.plan.controls if item.control == control), None)

    def has(self, feature: Feature) -> bool:
        """Return whether the driver declares a feature."""
        return feature in self.plan.features

    @property
    def writable(self) -> tuple[str, ...]:
        """The places that programs can write to; shared memory is for processes to share."""
        places = (str(self.workspace), "/tmp")
        return (*places, "/dev/shm") if self.has(Feature.PROCESSES) else places

    def shell(self, script: str, *arguments: str) -> tuple[str, ...]:
        """Return the argument vector that runs a shell script; its ``$1`` is the first argument."""
        return (*self.toolchain.shell, script, "sh", *arguments)

    def python(self, code: str, *arguments: str) -> tuple[str, ...]:
        """Return the argument vector that runs Python code; its ``sys.argv[1]`` is the first argument."""
        return (*self.toolchain.python, code, *arguments)

    async def start(self, *argv: str, **options: Unpack[Options]) -> Process:
        """Start a program and return at once."""
        return await self.instance.exec(make_request(argv, options))

    async def run(self, *argv: str, feed: bytes | None = None, **options: Unpack[Options]) -> Finished:
        """Run a program to its end; ``feed`` is written to its standard input, which is then closed."""
        if feed is not None:
            options["stdin"] = True
        return await collect(await self.start(*argv, **options), feed)

    async def py(self, code: str, *arguments: str, **options: Unpack[Options]) -> Finished:
        """Run Python code to its end."""
        return await self.run(*self.python(code, *arguments), **options)

    async def says(self, code: str, *arguments: str, **options: Unpack[Options]) -> str:
        """Run Python code that must succeed; return what it printed."""
        done = await self.py(code, *arguments, **options)
        assert done.status.code == 0, f"{code!r} ended with {done.status}: {done.stderr[-500:]!r}"
        return done.text

    async def works(self) -> None:
        """Check that programs can still be run."""
        assert await self.says("print('works')") == "works"

    async def idle(self, *arguments: str, **options: Unpack[Options]) -> Process:
        """Start a program that does nothing for a minute."""
        return await self.start(*self.python(IDLE, *arguments), **options)

    async def echo(self, *arguments: str, **options: Unpack[Options]) -> Process:
        """Start a program that gives its input back."""
        options["stdin"] = True
        return await self.start(*self.python(CAT, *arguments), **options)

    async def answers(self, process: Process) -> None:
        """Check that a program that ``echo`` started still lives."""
        assert process.stdin is not None
        word = secrets.token_hex(8).encode()
        await process.stdin.send(word)
        assert await read_until(process.stdout, word) == word

    async def make(self, *items: str) -> None:
        """Let a program make directories (``name/``), links (``name->target``) and files (``name=content``)."""
        await self.says(MAKE, *items)

    async def cat(self, *names: str) -> str:
        """Return the content of files, one after the other, as a program sees it."""
        return await self.says(SHOW, *names)

    async def ls(self, path: str = ".") -> list[str]:
        """Return the names in a directory, sorted, as a program sees them."""
        return (await self.says(LS, path)).splitlines()

    async def mode(self, name: str) -> int:
        """Return a file's permission bits as a program sees them, or as it's told where programs see none."""
        seen = int(await self.says(MODE, name))
        return seen or (await self.files.stat(self.workspace / name)).mode & 0o7777

    async def pipe(self, name: str) -> bool:
        """Let a program make a named pipe; return False where there are none."""
        code = (await self.py(PIPE, name)).status.code
        assert code in {0, 3}
        return code == 0

    async def sh(self, script: str, *arguments: str, **options: Unpack[Options]) -> Finished:
        """Run a shell script to its end; needs ``Feature.PROCESSES``."""
        return await self.run(*self.shell(script, *arguments), **options)

    async def ok(self, script: str, *arguments: str, **options: Unpack[Options]) -> str:
        """Run a shell script that must succeed; return what it printed. Needs ``Feature.PROCESSES``."""
        done = await self.sh(script, *arguments, **options)
        assert done.status.code == 0, f"{script!r} ended with {done.status}: {done.stderr[-500:]!r}"
        return done.text

    async def alive(self, mark: str) -> int:
        """Return how many processes inside have ``mark`` in their arguments; needs ``Feature.PROCESSES``."""
        # The bracket keeps the pattern from matching the processes that search for it.
        pattern = f"[{mark[0]}]{mark[1:]}"
        done = await self.sh('grep -las -e "$1" /proc/[0-9]*/cmdline', pattern)
        return len(done.stdout.splitlines())

    async def until_alive(self, mark: str, count: int = 1) -> None:
        """Wait until at least ``count`` processes with ``mark`` run inside."""

        async def ready() -> bool:
            return await self.alive(mark) >= count

        await eventually(ready, f"{count} processes marked {mark} are running")

    async def until_gone(self, mark: str, *, within: float = 5.0) -> None:
        """Wait until no process with ``mark`` runs inside any more."""

        async def gone() -> bool:
            return await self.alive(mark) == 0

        await eventually(gone, f"no process marked {mark} is left", within=within)


def make_request(argv: tuple[str, ...], options: Options) -> ExecRequest:
    """Return the request for a program."""
    cwd = options.get("cwd")
    seconds = options.get("timeout")
    return ExecRequest(
        argv=argv,
        cwd=None if cwd is None else PurePosixPath(cwd),
        env=options.get("env", {}),
        user=options.get("user"),
        tty=options.get("tty"),
        stdin=options.get("stdin", False),
        timeout=None if seconds is None else timedelta(seconds=seconds),
        max_output=options.get("max_output", 10 * 1024 * 1024),
        preloaded=options.get("preloaded", False),
    )


async def collect(process: Process, feed: bytes | None = None) -> Finished:
    """Return what a started program wrote and how it ended."""
    parts: dict[str, bytes] = {}

    async def read(name: str, stream: ByteReceiveStream) -> None:
        parts[name] = await read_all(stream)

    async def write() -> None:
        if process.stdin is None:
            return
        try:
            if feed:
                await process.stdin.send(feed)
            await process.stdin.aclose()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the program ended without reading everything, as programs may

    ended: list[ExitStatus] = []
    with single_error():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, "stdout", process.stdout)
            tasks.start_soon(read, "stderr", process.stderr)
            tasks.start_soon(write)
            ended.append(await process.wait())
    return Finished(ended[0], parts["stdout"], parts["stderr"])


async def read_all(stream: ByteReceiveStream) -> bytes:
    """Return everything until the stream ends."""
    parts = [chunk async for chunk in stream]
    return b"".join(parts)


async def read_until(stream: ByteReceiveStream, wanted: bytes, *, within: float = 10.0) -> bytes:
    """Return what came up to and with the chunk in which ``wanted`` was complete."""
    seen = b""
    with anyio.move_on_after(stretched(within)):
        while wanted not in seen:
            try:
                seen += await stream.receive()
            except anyio.EndOfStream:
                break
    assert wanted in seen, f"waited for {wanted!r}, got {seen[-500:]!r}"
    return seen


async def eventually(predicate: Callable[[], Awaitable[bool]], what: str, *, within: float = 5.0) -> None:
    """Wait until ``predicate`` holds; fail with ``what`` otherwise."""
    pause = 0.01
    with anyio.move_on_after(stretched(within)):
        while not await predicate():
            await anyio.sleep(pause)
            pause = min(pause * 1.5, 0.2)
        return
    msg = f"not within {stretched(within):g} s: {what}"
    raise AssertionError(msg)


@contextmanager
def patient(factor: float) -> Generator[None]:
    """Wait ``factor`` times longer than usual for anything, in this task and those it starts."""
    token = _PATIENCE.set(factor)
    try:
        yield
    finally:
        _PATIENCE.reset(token)


def stretched(seconds: float) -> float:
    """Return the time that ``seconds`` on a fast boundary may be on this one."""
    return seconds * _PATIENCE.get()


def soon(seconds: float = 5.0) -> AbstractContextManager[anyio.CancelScope]:
    """Return a block that has to be through in ``seconds``, longer on boundaries that are slow by nature."""
    return anyio.fail_after(stretched(seconds))


def marker() -> str:
    """Return a number that no other process has among its arguments; ``sleep`` takes it as seconds."""
    return str(10**9 + secrets.randbelow(10**9))


def host_processes(mark: str) -> list[int]:
    """Return the processes of this machine that have ``mark`` in their arguments, as the host sees them."""
    found: list[int] = []
    needle = mark.encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if needle in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended while we looked
    return found


@contextmanager
def single_error() -> Generator[None]:
    """Raise one error of a task group by itself, so that checks can expect its type.

    When several tasks fail at once it is the same loss that each of them met.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = cast("tuple[BaseException, ...]", error.exceptions)[0]
        raise error from group
