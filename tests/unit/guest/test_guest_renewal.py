"""Snapshots as the agent sees them: it is still, then goes on, or becomes somebody else.

No snapshot is made here. A restored child is the bytes of its source with another host at the other
end of the stream, so a new session takes over the very process that was told to be still: to the agent
that is the same.
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from jubako.boundary.contract import ExecRequest
from jubako.errors import InstanceLostError, LaunchError, SandboxStateError
from jubako.guest import GuestSession, Identity, SessionLimits, SocketStream, preload_launcher
from jubako.linux.seccomp import DEFAULT, compile_filter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Guest, OpenGuest
    from jubako.boundary.contract import ToolLink

pytestmark = pytest.mark.anyio

FILTER = compile_filter(DEFAULT.widened(["sethostname"]))
CHILD = Identity("child-1", machine_id="c" * 32, env={"CHILD": "yes"})


class Wire:
    """A stream that outlives its session, as the one to a restored child has another host at its end."""

    def __init__(self, stream: SocketStream) -> None:
        self.receive = stream.receive
        self.send = stream.send

    async def aclose(self) -> None:
        pass


class Echo:
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def call(self, tool: str, arguments: bytes) -> bytes:
        self.calls.append(tool)
        return json.dumps({"result": json.loads(arguments)}).encode()


@asynccontextmanager
async def child_of(
    guest: Guest, wires: list[Wire], identity: Identity = CHILD, tools: ToolLink | None = None
) -> AsyncIterator[Guest]:
    """Take a still agent over as the host of a restored child would."""
    await guest.session.aclose()
    async with anyio.create_task_group() as tasks:
        session = await GuestSession.resume(
            wires[0], tasks=tasks, config=guest.session.config, hooks=guest.hooks, identity=identity, tools=tools
        )
        guest.session = session
        try:
            yield guest
        finally:
            await session.aclose()


def keep(wires: list[Wire], stream: SocketStream) -> Wire:
    wires.append(Wire(stream))
    return wires[0]


async def test_a_still_sandbox_goes_on(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        for _ in range(3):
            assert (await guest.sh("echo before")).out == b"before\n"
            await guest.session.prepare()
            guest.session.proceed()
            guest.session.proceed()
            assert (await guest.sh("echo after")).out == b"after\n"


async def test_running_programs_are_counted(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        running = [await guest.start("sleep", "60") for _ in range(2)]
        with pytest.raises(SandboxStateError, match="2 programs run") as caught:
            await guest.session.prepare()
        assert caught.value.details["running"] == 2
        for process in running:
            await process.kill()
            await process.wait()
        await guest.session.prepare()
        guest.session.proceed()
        assert (await guest.sh("echo on")).out == b"on\n"


async def test_what_programs_left_behind_is_counted(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        await guest.sh("sleep 60 >/dev/null 2>&1 & sleep 60 >/dev/null 2>&1 &")
        with pytest.raises(SandboxStateError, match="2 processes run inside") as caught:
            await guest.session.prepare()
        assert caught.value.details["running"] == 2
        # The refusal leaves everything as it was.
        assert (await guest.sh("echo on")).out == b"on\n"


async def test_other_requests_are_in_the_way(open_guest: OpenGuest) -> None:
    async with open_guest() as guest, anyio.create_task_group() as tasks:

        async def watch() -> None:
            async for _ in guest.session.files.watch(guest.session.config.workspace):
                pass

        tasks.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(SandboxStateError, match="1 requests are open"):
            await guest.session.prepare()
        tasks.cancel_scope.cancel()


async def test_requests_wait_until_the_sandbox_goes_on(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        ended = await guest.start("true")
        await ended.wait()
        await guest.session.prepare()
        with pytest.raises(SandboxStateError, match="already"):
            await guest.session.prepare()
        done: list[bytes] = []

        async def ask() -> None:
            done.append((await guest.sh("echo waited")).out)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ended.kill)
            await anyio.sleep(0.1)
            assert not done
            guest.session.proceed()
        assert done == [b"waited\n"]


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)
async def test_a_caller_that_gives_up_leaves_nothing_still(open_guest: OpenGuest) -> None:
    launcher = preload_launcher(["time"], python="python3")
    slow = type(launcher)(("sh", "-c", 'sleep 1.5; exec "$@"', "sh", *launcher.argv))
    async with open_guest(launcher=slow) as guest:
        guest.session.launch()
        with anyio.move_on_after(0.05) as scope:
            await guest.session.prepare()
        assert scope.cancelled_caught
        assert (await guest.sh("echo on")).out == b"on\n"
        # Ready by now: the launcher is no program, and in nobody's way.
        await guest.session.prepare()
        guest.session.proceed()


async def test_a_launcher_that_failed_is_told(open_guest: OpenGuest) -> None:
    async with open_guest(launcher=preload_launcher(["no_such_module"])) as guest:
        guest.session.launch()
        with pytest.raises(SandboxStateError, match="no_such_module"):
            await guest.session.prepare()


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)
async def test_a_dying_sandbox_is_not_waited_for(open_guest: OpenGuest) -> None:
    launcher = preload_launcher(["time"], python="python3")
    slow = type(launcher)(("sh", "-c", 'sleep 30; exec "$@"', "sh", *launcher.argv))
    async with open_guest(launcher=slow) as guest, anyio.create_task_group() as tasks:
        errors: list[InstanceLostError] = []

        async def prepare() -> None:
            try:
                await guest.session.prepare()
            except InstanceLostError as error:
                errors.append(error)

        guest.session.launch()
        tasks.start_soon(prepare)
        await anyio.sleep(0.1)
        guest.agent.kill()
        await guest.session.closed.wait()
        await anyio.wait_all_tasks_blocked()
        assert len(errors) == 1


async def test_a_still_sandbox_can_be_stopped(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        await guest.session.prepare()
        await guest.session.shutdown(timedelta(seconds=5))
        assert guest.agent.wait(5) == 0


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)
async def test_a_child_has_an_identity_of_its_own(open_guest: OpenGuest) -> None:
    wires: list[Wire] = []
    async with open_guest(
        stream=lambda stream: keep(wires, stream), renewable=True, seccomp=FILTER, env={"MINE": "1"}
    ) as guest:
        before = guest.session.hello
        assert (await guest.sh("cat /etc/hostname; uname -n")).out == b"old\nold\n"
        # Programs, also as the agent's own user, get nothing of the capability that the agent keeps.
        caps = await guest.sh("grep -h ^Cap /proc/self/status /proc/1/status")
        sets = [line.split()[1] for line in caps.out.decode().splitlines()]
        none = "0" * 16
        assert sets == [none] * 5 + [none, "0000000000200000", none, none, none]
        await guest.session.prepare()
        async with child_of(guest, wires) as child:
            after = child.session.hello
            assert (after.pid, after.uid, after.features) == (before.pid, before.uid, before.features)
            said = await child.sh("cat /etc/hostname /etc/machine-id /etc/hosts; uname -n; echo $CHILD $MINE")
            assert said.out.decode().splitlines() == [
                *("child-1", "c" * 32, "127.0.1.1 child-1 old.example", "child-1", "yes 1"),
            ]
            assert (await child.sh("grep -h ^CapEff /proc/1/status")).out.split()[1] == none.encode()
            # The child of a child: the same again.
            await child.session.prepare()
            child.session.proceed()
            assert (await child.sh("echo on")).out == b"on\n"


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)
async def test_streams_and_limits_begin_anew(open_guest: OpenGuest) -> None:
    wires: list[Wire] = []
    options: dict[str, Any] = {"renewable": True, "seccomp": FILTER}
    async with open_guest(stream=lambda stream: keep(wires, stream), tools=Echo(), **options) as guest:
        call = "import jubako_tools; print(jubako_tools.call('echo', a=1))"
        for _ in range(3):
            assert (await guest.run("python3", "-c", call)).out == b"{'a': 1}\n"
        ident = await guest.sh("echo $JUBAKO_EXEC_ID")
        await guest.session.prepare()
        link = Echo()
        async with child_of(guest, wires, tools=link) as child:
            again = await child.sh("echo $JUBAKO_EXEC_ID")
            assert ident.out.partition(b".")[0] != again.out.partition(b".")[0], "another secret"
            assert int(again.out.partition(b".")[2]) == SessionLimits().tool_calls + 1
            for _ in range(20):
                assert (await child.run("python3", "-c", call)).out == b"{'a': 1}\n"
            assert link.calls == ["echo"] * 20
            process = await child.start("sleep", "60")
            await process.kill()
            assert (await process.wait()).signal == 9


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)
async def test_a_child_without_functions_of_the_host(open_guest: OpenGuest) -> None:
    wires: list[Wire] = []
    options: dict[str, Any] = {"renewable": True, "seccomp": FILTER}
    call = "import jubako_tools; jubako_tools.call('echo')"
    async with open_guest(stream=lambda stream: keep(wires, stream), tools=Echo(), **options) as guest:
        await guest.session.prepare()
        async with child_of(guest, wires) as child:
            assert b"tools-unavailable" in (await child.run("python3", "-c", call)).err


@pytest.mark.parametrize("place", ["bwrap"], indirect=True)
async def test_a_warm_launcher_goes_on_in_the_child(open_guest: OpenGuest) -> None:
    wires: list[Wire] = []
    options: dict[str, Any] = {"renewable": True, "seccomp": FILTER, "launcher": preload_launcher(["json"])}
    async with open_guest(stream=lambda stream: keep(wires, stream), **options) as guest:
        guest.session.launch()
        await guest.session.prepare()
        async with child_of(guest, wires) as child:
            code = "import sys, os, socket; print('json' in sys.modules, os.environ['CHILD'], socket.gethostname())"
            process = await child.session.exec(ExecRequest(argv=("python3", "-c", code), preloaded=True))
            assert await process.stdout.receive() == b"True yes child-1\n"
            assert (await process.wait()).code == 0
            stuck = await child.session.exec(
                ExecRequest(argv=("python3", "-c", "import time; time.sleep(60)"), preloaded=True)
            )
            await stuck.kill()
            assert (await stuck.wait()).signal == 9


async def test_an_identity_that_stays_is_refused(open_guest: OpenGuest) -> None:
    """Where the agent was given no means, it says so, and nothing runs in the child."""
    wires: list[Wire] = []
    name = os.uname().nodename
    async with open_guest(stream=lambda stream: keep(wires, stream)) as guest:
        await guest.session.prepare()
        with pytest.raises(BaseExceptionGroup) as caught:
            async with child_of(guest, wires):
                pass
        assert caught.group_contains(LaunchError, match="kept its source's hostname, machine-id, hosts")
    assert os.uname().nodename == name


async def test_nothing_else_may_follow(open_guest: OpenGuest) -> None:
    """An agent that is still takes two messages and no other: the host broke its own protocol."""
    wires: list[Wire] = []
    async with open_guest(stream=lambda stream: keep(wires, stream)) as guest:
        await guest.session.prepare()
        await guest.session.aclose()
        await wires[0].send(b"\0\0\0\0\x50\0\0\0\x63")
        assert guest.agent.wait(5) == 70
        assert guest.agent.stderr is not None
        assert b"only CONTINUE or RENEW" in guest.agent.stderr.read()


async def test_the_stream_on_standard_input(open_guest: OpenGuest) -> None:
    async with open_guest(stdin=True) as guest:
        assert await anyio.Path(f"/proc/{guest.agent_pid()}/fd/0").readlink() == anyio.Path("/dev/null")
        assert (await guest.sh("cat; readlink /proc/self/fd/0; echo on")).out == b"/dev/null\non\n"
        assert (await guest.run("cat", data=b"text")).out == b"text"
