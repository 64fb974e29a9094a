"""A real sentry at the other end of a trace session."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.drivers.runsc.trace import TraceSession
from jubako.events import (
    ConnectionTried,
    EventData,
    FileOpened,
    ProgramCloned,
    ProgramExited,
    ProgramStarted,
    TraceDropped,
)
from jubako.linux.spawn import Child, spawn
from jubako.policy import ObservePolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.root]

SCRIPT = r"""
import os, socket
def run(*argv):
    pid = os.fork()
    if pid == 0:
        try: os.execv(argv[0], argv)
        except OSError: os._exit(3)
    os.waitpid(pid, 0)
def attempt(call, *args):
    try: call(*args)
    except OSError: pass
run("/usr/bin/env", "true", "ghp_" + "a" * 36)
run("/usr/bin/env", b"true", b"\xff")
run("/usr/bin/nothing")
os.mkdir(b"/tmp/\xff")
attempt(os.open, "/etc/shadow", 0)
attempt(os.open, b"/tmp/\xff/../../etc/shadow", 0)
os.chdir("/usr")
attempt(os.open, "../root/.ssh", os.O_WRONLY)
attempt(socket.socket().connect, ("10.1.2.3", 80))
attempt(socket.socket(socket.AF_UNIX).connect, "/tmp/none")
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), 9)
os.waitpid(pid, 0)
"""


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The other backend is used with a socket of our own; a sentry takes its time."""
    return str(request.param)


@pytest.fixture(scope="module")
def runsc() -> str:
    found = shutil.which("runsc")
    if found is None and "runsc" in os.environ.get("JUBAKO_REQUIRE_DRIVERS", ""):
        pytest.fail("runsc is required by JUBAKO_REQUIRE_DRIVERS", pytrace=False)
    if found is None:
        pytest.skip("no runsc on this machine")
    return found


def bundle(directory: Path, *argv: str) -> Path:
    root = directory / "bundle" / "rootfs"
    for name in ("usr", "proc", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    config = {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 1000, "gid": 1000}, "args": argv, "env": ["PATH=/usr/bin"], "cwd": "/"},
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["ro", "rbind"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")]},
    }
    (root.parent / "config.json").write_text(json.dumps(config))
    return root.parent


@asynccontextmanager
async def container(runsc: str, directory: Path, session: TraceSession, name: str, *argv: str) -> AsyncIterator[Child]:
    """Run a container with pipes for its stdio."""
    config = directory / "trace.json"
    config.write_bytes(session.config(str(session.path)))
    base = (runsc, f"--root={directory}/state", "--network=none", "--platform=ptrace", "--ignore-cgroups")
    read, write = os.pipe()
    child = spawn(
        (*base, f"--pod-init-config={config}", "run", f"--bundle={bundle(directory, *argv)}", name),
        stdin=read,
        stdout=subprocess.STDOUT,
        env={"PATH": "/usr/sbin:/usr/bin"},
    )
    os.close(read)
    try:
        yield child
    finally:
        os.close(write)
        ended = await anyio.run_process((*base, "delete", "-force", name), check=False)
        assert ended.returncode == 0, ended.stderr
        await child.aclose()


@asynccontextmanager
async def session(directory: Path) -> AsyncIterator[tuple[TraceSession, list[EventData], list[str]]]:
    events: list[EventData] = []
    lost: list[str] = []
    async with anyio.create_task_group() as tasks:
        made = TraceSession(directory, ObservePolicy(), emit=events.append, on_lost=lost.append)
        made.start(tasks)
        try:
            yield made, events, lost
        finally:
            await made.aclose()


async def test_a_real_sentry_tells_what_programs_do(runsc: str, tmp_path: Path) -> None:
    argv = ("/usr/bin/python3", "-I", "-S", "-B", "-c", SCRIPT)
    async with (
        session(tmp_path) as (trace, events, lost),
        container(runsc, tmp_path, trace, "jubako-test-trace", *argv) as child,
    ):
        with anyio.fail_after(60):
            assert await child.wait() == 0, child.stderr_text()
        await trace.connected(anyio.sleep_forever)
        assert not any(item.name == "trace.sock" for item in os.scandir(tmp_path))
    assert lost == []
    programs = [item for item in events if isinstance(item, ProgramStarted)]
    assert [(item.path, item.argv) for item in programs] == [
        ("/usr/bin/env", ("/usr/bin/env", "true", "ghp_" + "a" * 36)),
        ("/usr/bin/true", ("true", "ghp_" + "a" * 36)),
        # Their arguments are no text: gVisor can't write them down, that they started still shows.
        ("", ()),
        ("", ()),
    ]
    children = [item.child for item in events if isinstance(item, ProgramCloned)]
    assert len(set(children)) == len(children) == 4
    assert [item.pid for item in programs] == [children[0], children[0], children[1], children[1]]
    exits = [item for item in events if isinstance(item, ProgramExited)]
    assert [(item.code, item.signal) for item in exits] == [(0, None), (0, None), (3, None), (None, 9)]
    assert [item.pid for item in exits] == children
    assert [item for item in events if isinstance(item, FileOpened)] == [
        FileOpened(pid=1, path="/etc/shadow", write=False, error=2),
        FileOpened(pid=1, path="/root/.ssh", write=True, error=2),
    ]
    assert [item for item in events if isinstance(item, ConnectionTried)] == [
        ConnectionTried(pid=1, family="inet", address="10.1.2.3", port=80),
        ConnectionTried(pid=1, family="unix", address="/tmp/none"),
    ]
    assert [item for item in events if isinstance(item, TraceDropped)] == [TraceDropped(count=1, reason="unreadable")]


async def test_a_flood_of_programs_is_counted(runsc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jubako.drivers.runsc.trace._acts.EVENTS_AT_ONCE", 50)
    monkeypatch.setattr("jubako.drivers.runsc.trace._acts.EVENTS_PER_SECOND", 1)
    script = "import os\nfor _ in range(100):\n if os.fork() == 0: os._exit(0)\n os.wait()\n"
    argv = ("/usr/bin/python3", "-I", "-S", "-B", "-c", script)
    async with (
        session(tmp_path) as (trace, events, lost),
        container(runsc, tmp_path, trace, "jubako-test-flood", *argv) as child,
    ):
        with anyio.fail_after(100):
            assert await child.wait() == 0, child.stderr_text()
    assert lost == []
    told = sum(isinstance(item, ProgramCloned | ProgramExited) for item in events)
    missed = sum(item.count for item in events if isinstance(item, TraceDropped))
    assert told < 100
    assert told + missed == 200


async def test_a_sentry_that_finds_no_socket_does_not_start(runsc: str, tmp_path: Path) -> None:
    async with session(tmp_path) as (trace, events, _):
        trace.path.unlink()
        async with container(runsc, tmp_path, trace, "jubako-test-refused", "/usr/bin/true") as child:
            with anyio.fail_after(30):
                assert await child.wait() != 0
            assert "connect" in child.stderr_text()
    assert events == []
