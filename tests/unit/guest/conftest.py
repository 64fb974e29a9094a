"""A real agent to talk to: as a plain child process, and as PID 1 behind bubblewrap."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import anyio
import pytest

from jubako.boundary.contract import ExecRequest, ExitStatus
from jubako.guest import GuestSession, SessionConfig, SocketStream, agent_file, tools_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import ByteReceiveStream

    from jubako.boundary.contract import ToolLink
    from jubako.guest import GuestProcess
    from jubako.guest.link import GuestStream

PYTHON = os.path.realpath(sys.executable)


@dataclass
class Hooks:
    """What a driver would do, written down."""

    counters: Counter[str] = field(default_factory=Counter[str])
    violations: list[str] = field(default_factory=list[str])
    kills: int = 0
    on_kill: Callable[[], None] = lambda: None

    def limit_counters(self) -> dict[str, int]:
        return dict(self.counters)

    def on_violation(self, rule: str) -> None:
        self.violations.append(rule)

    def kill_instance(self) -> None:
        self.kills += 1
        self.on_kill()


@dataclass
class Done:
    out: bytes
    err: bytes
    status: ExitStatus


@dataclass
class Guest:
    session: GuestSession
    hooks: Hooks
    agent: subprocess.Popen[bytes]
    workspace: Path | PurePosixPath
    pid1: bool

    def agent_pid(self) -> int:
        """Return the agent's pid as seen from here."""
        if not self.pid1:
            return self.agent.pid
        # With --as-pid-1 the monitor has one child.
        return int(Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children").read_text().split()[0])

    async def start(self, *argv: str, **options: object) -> GuestProcess:
        return await self.session.exec(ExecRequest(argv=argv, **options))  # type: ignore[arg-type]  # options go through as they are

    async def run(self, *argv: str, data: bytes | None = None, **options: object) -> Done:
        process = await self.start(*argv, stdin=data is not None, **options)
        out, err = bytearray(), bytearray()

        async def read(stream: ByteReceiveStream, into: bytearray) -> None:
            async for part in stream:
                into += part

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, process.stdout, out)
            tasks.start_soon(read, process.stderr, err)
            if data is not None and process.stdin is not None:
                with contextlib.suppress(anyio.BrokenResourceError):
                    await process.stdin.send(data)
                await process.stdin.aclose()
        return Done(bytes(out), bytes(err), await process.wait())

    async def sh(self, text: str, *arguments: str, **options: object) -> Done:
        return await self.run("sh", "-c", text, "sh", *arguments, **options)  # type: ignore[arg-type]  # options go through as they are

    async def py(self, text: str, *arguments: str, **options: object) -> Done:
        return await self.run("python3", "-I", "-S", "-c", text, *arguments, **options)  # type: ignore[arg-type]  # options go through as they are

    async def alive(self, mark: str) -> int:
        done = await self.sh('grep -lsa -e "$1" /proc/[0-9]*/cmdline', f"[{mark[0]}]{mark[1:]}")
        return len(done.out.split())

    async def until_alive(self, mark: str, count: int) -> None:
        with anyio.fail_after(20):
            while await self.alive(mark) != count:  # noqa: ASYNC110  # another kernel's processes set no event
                await anyio.sleep(0.02)


class Plain:
    """A stream with nothing but what the session must have."""

    def __init__(self, stream: SocketStream) -> None:
        self.receive = stream.receive
        self.send = stream.send
        self.aclose = stream.aclose


class OpenGuest(Protocol):
    def __call__(
        self,
        config: SessionConfig | None = None,
        *,
        plain: bool = False,
        tools: ToolLink | None = None,
        stream: Callable[[SocketStream], GuestStream] | None = None,
        stdin: bool = False,
        **options: object,
    ) -> AbstractAsyncContextManager[Guest]: ...


def _bubblewrap(workspace: str) -> list[str]:
    argv = [
        "bwrap",
        "--unshare-all",
        "--as-pid-1",
        "--die-with-parent",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--cap-drop",
        "ALL",
    ]
    for path in ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc"):
        if Path(path).is_symlink():
            argv += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).exists():
            argv += ["--ro-bind", path, path]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", workspace]
    return argv


def _renewable(directory: Path) -> list[str]:
    """Return what lets the agent give itself another identity: files of its own, and a capability."""
    argv = ["--tmpfs", "/etc"]
    for name in ("hostname", "machine-id", "hosts"):
        (directory / name).write_text("127.0.1.1 old old.example\n" if name == "hosts" else "old\n")
        argv += ["--bind", str(directory / name), f"/etc/{name}"]
    argv += ["--hostname", "old", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP"]
    # A namespace of the agent's own: bubblewrap's belongs to the user namespace above.
    return [*argv, "--", "unshare", "--uts"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["child", "bwrap"])
def place(request: pytest.FixtureRequest) -> str:
    if request.param == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("no bwrap")
    return str(request.param)


@pytest.fixture
def open_guest(place: str, tmp_path: Path) -> OpenGuest:
    """Open a session with a fresh agent; at the end nothing of it is left."""

    @asynccontextmanager
    async def opened(
        config: SessionConfig | None = None,
        *,
        plain: bool = False,
        tools: ToolLink | None = None,
        stream: Callable[[SocketStream], GuestStream] | None = None,
        stdin: bool = False,
        **options: object,
    ) -> AsyncIterator[Guest]:
        bundle = agent_file(PYTHON)
        ours, theirs = socket.socketpair()
        workspace: Path | PurePosixPath = PurePosixPath("/work")
        prefix: list[str] = []
        if place == "bwrap":
            prefix = [*_bubblewrap("/work"), "--ro-bind", str(bundle), "/agent.pyc"]
            prefix += ["--ro-bind", str(tools_directory()), "/tools"]
            prefix += _renewable(tmp_path) if options.get("renewable") else ["--"]
        else:
            workspace = tmp_path / "workspace"
            workspace.mkdir(exist_ok=True)
        if tools is not None:
            options["tools"] = f"@jubako-test-{secrets.token_hex(8)}"
            options["env"] = {"PYTHONPATH": "/tools" if prefix else str(tools_directory())}
        path = "/agent.pyc" if prefix else str(bundle)
        agent = subprocess.Popen(  # noqa: ASYNC220  # PDEATHSIG wants this thread
            [*prefix, PYTHON, "-I", "-S", "-B", path, "--fd", "0" if stdin else str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=theirs.fileno() if stdin else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={},
        )
        theirs.close()
        hooks = Hooks(on_kill=agent.kill)
        settings = config or SessionConfig(workspace=PurePosixPath(workspace), **options)  # type: ignore[arg-type]  # options go through as they are
        try:
            async with anyio.create_task_group() as tasks:
                carrier: GuestStream = SocketStream(ours)
                if stream is not None or plain:
                    carrier = (stream or Plain)(SocketStream(ours))
                session = await GuestSession.open(carrier, tasks=tasks, config=settings, hooks=hooks, tools=tools)
                try:
                    yield Guest(session, hooks, agent, workspace, pid1=bool(prefix))
                finally:
                    await session.aclose()
        finally:
            ours.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(5)
            agent.kill()
            _, said = agent.communicate()
        assert said == b"", "the agent has nothing to complain about"

    return opened
