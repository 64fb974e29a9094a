"""features.*: what is declared works, and what isn't declared is refused; ports.* beside it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from jubako.boundary.contract import (
    Attestable,
    Feature,
    Forkable,
    Pausable,
    PortForwarding,
    Restorer,
    SnapshotRef,
    Snapshottable,
    TerminalSize,
)
from jubako.errors import (
    GuestConnectionError,
    InvalidRequestError,
    JubakoError,
    SandboxStateError,
    SnapshotError,
)
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import Guest, collect, marker, read_all, read_until, soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from jubako.boundary.contract import ProbeReport
    from jubako.testing.conformance._bench import Workbench

__all__ = ["FeatureChecks", "PortChecks"]

_ECHO: Final = """
try:
    import socket
    server = socket.create_server(("127.0.0.1", 0)); print(server.getsockname()[1], flush=True)
except (AttributeError, ImportError, OSError):
    print(7, flush=True)
    raise SystemExit
while True:
    peer = server.accept()[0]
    while data := peer.recv(65536): peer.sendall(data)
    peer.close()
"""


_IDENTITY: Final = """
import os, random
print(os.uname().nodename, open("/etc/machine-id").read().strip(), random.random())
"""

_STARTS: Final = """
try:
    import subprocess
    print(subprocess.run(["/bin/sh", "-c", "echo started"], stdout=subprocess.PIPE).stdout.decode())
except (AttributeError, ImportError, OSError):
    print("refused")
"""


def _change_a_byte(place: Path) -> None:
    path = next(path for path in sorted(place.rglob("*")) if path.is_file())
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def _matches(feature: Feature, report: ProbeReport, act: Callable[[], Awaitable[object]]) -> None:
    """Check that ``act`` works if the feature is declared, and is refused by an error of jubako if not."""
    with soon(15):
        if feature in report.features:
            await act()
            return
        with pytest.raises(JubakoError):
            await act()


class FeatureChecks(Checks):
    """Declaration and behaviour agree, both ways. Checks that need an undeclared feature are skipped."""

    @check("features.tty")
    async def test_features_tty(self, guest: Guest, report: ProbeReport) -> None:
        """Programs get a terminal if and only if the driver declares it."""

        async def act() -> None:
            assert await guest.says("import os; print(os.isatty(1))", tty=TerminalSize()) == "True"

        await _matches(Feature.TTY, report, act)

    @check("features.processes")
    async def test_features_processes(self, guest: Guest, report: ProbeReport) -> None:
        """Programs can start programs, a shell among them, if and only if the driver declares it."""
        declared = Feature.PROCESSES in report.features
        assert await guest.says(_STARTS) == ("started" if declared else "refused")
        done = await guest.sh("echo started")
        if declared:
            assert done.text == "started"
        else:
            assert done.status.code in {126, 127}
            assert done.status.message, "the reason is missing"

    @check("features.signals")
    async def test_features_signals(self, guest: Guest, report: ProbeReport) -> None:
        """Programs get signals if and only if the driver declares it."""
        process = await guest.idle()

        async def act() -> None:
            await process.signal(15)
            assert (await process.wait()).signal == 15

        await _matches(Feature.SIGNALS, report, act)
        await process.kill()

    @check("features.background")
    async def test_features_background(self, guest: Guest, report: ProbeReport) -> None:
        """What a program leaves behind lives on if and only if the driver declares it."""
        if Feature.PROCESSES not in report.features:
            assert Feature.BACKGROUND not in report.features, "where no program starts another nothing is left behind"
            return
        mark = marker()
        await guest.ok('(setsid sleep "$1" >/dev/null 2>&1 &)', mark)
        await anyio.sleep(0.2)
        assert await guest.alive(mark) == (1 if Feature.BACKGROUND in report.features else 0)

    @check("features.watch")
    async def test_features_watch(self, guest: Guest, report: ProbeReport) -> None:
        """Directories can be watched if and only if the driver declares it."""

        async def act() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(touch)
                async for _ in guest.files.watch(guest.workspace):
                    break
                tasks.cancel_scope.cancel()

        async def touch() -> None:
            while True:
                await guest.files.write(guest.workspace / "file", b"")
                await anyio.sleep(0.02)

        await _matches(Feature.WATCH, report, act)

    @check("features.pause")
    async def test_features_pause(self, guest: Guest, report: ProbeReport) -> None:
        """Sandboxes can be paused if and only if the driver declares it."""

        async def act() -> None:
            assert isinstance(guest.instance, Pausable)
            await guest.instance.pause()
            await guest.instance.resume()

        if Feature.PAUSE in report.features or isinstance(guest.instance, Pausable):
            await _matches(Feature.PAUSE, report, act)

    @check("features.ports")
    async def test_features_ports(self, guest: Guest, report: ProbeReport) -> None:
        """Ports can be reached if and only if the driver declares it."""

        async def act() -> None:
            assert isinstance(guest.instance, PortForwarding)
            await (await guest.instance.connect(port)).aclose()

        if Feature.PORTS in report.features or isinstance(guest.instance, PortForwarding):
            server = await guest.start(*guest.python(_ECHO))
            port = int(await read_until(server.stdout, b"\n"))
            await _matches(Feature.PORTS, report, act)

    @check("features.snapshot")
    async def test_features_snapshot(self, guest: Guest, report: ProbeReport, bench: Workbench) -> None:
        """Sandboxes can be written down and restored if and only if the driver declares it.

        What is restored has the source's files and an identity of its own, and goes its own way. The
        source goes on. Nothing is written down while a program runs, nothing restored that was changed.
        """

        async def act() -> None:
            source = guest.instance
            assert isinstance(source, Snapshottable)
            assert isinstance(bench.driver, Restorer)
            await guest.files.write(guest.workspace / "file", b"kept")
            before = await guest.says(_IDENTITY)
            place = bench.context().state_dir
            process = await guest.idle()
            with pytest.raises(SandboxStateError):
                await source.snapshot(place, memory=True)
            await process.kill()
            await process.wait()
            ref = await source.snapshot(place, memory=True)
            assert isinstance(ref, SnapshotRef)
            copy = await bench.driver.restore(ref, place, guest.plan, bench.context())
            try:
                await copy.start()
                other = Guest(copy, guest.plan, guest.toolchain)
                assert await copy.files.read(guest.workspace / "file", limit=10) == b"kept"
                await copy.files.write(guest.workspace / "file", b"changed")
                assert await guest.files.read(guest.workspace / "file", limit=10) == b"kept"
                found = await other.says(_IDENTITY)
                assert not set(found.split()) & set(before.split()), f"{found!r} has something of {before!r}"
                assert (await guest.says(_IDENTITY)).split()[:2] == before.split()[:2]
            finally:
                await copy.destroy()
            _change_a_byte(place)
            with pytest.raises(SnapshotError):
                await bench.driver.restore(ref, place, guest.plan, bench.context())

        if Feature.SNAPSHOT in report.features or isinstance(guest.instance, Snapshottable):
            await _matches(Feature.SNAPSHOT, report, act)

    @check("features.fork")
    async def test_features_fork(self, guest: Guest, report: ProbeReport, bench: Workbench) -> None:
        """Sandboxes can be multiplied if and only if the driver declares it."""

        async def act() -> None:
            assert isinstance(guest.instance, Forkable)
            copies = await guest.instance.fork([bench.context(), bench.context()])
            try:
                guests = [guest, *(Guest(copy, guest.plan, guest.toolchain) for copy in copies)]
                found = [word for each in guests for word in (await each.says(_IDENTITY)).split()]
                assert len(set(found)) == len(found) == 9, f"they share something: {found}"
            finally:
                for copy in copies:
                    await copy.destroy()

        if Feature.FORK in report.features or isinstance(guest.instance, Forkable):
            await _matches(Feature.FORK, report, act)

    @check("features.attest")
    async def test_features_attest(self, guest: Guest, report: ProbeReport) -> None:
        """Sandboxes give evidence if and only if the driver declares it, bound to the nonce."""

        async def act() -> None:
            assert isinstance(guest.instance, Attestable)
            first, second = [await guest.instance.evidence(bytes([item]) * 32) for item in (1, 2)]
            assert first
            assert first != second

        if Feature.ATTEST in report.features or isinstance(guest.instance, Attestable):
            await _matches(Feature.ATTEST, report, act)

    @check("features.plan")
    async def test_features_plan(self, guest: Guest, report: ProbeReport) -> None:
        """A plan carries the features of the report it was made from."""
        assert guest.plan.features == report.features
        assert not inspect.isawaitable(guest.plan)


class PortChecks(Checks):
    """Connections into the sandbox."""

    @check("ports.echo", needs=Feature.PORTS)
    async def test_ports_echo(self, guest: Guest) -> None:
        """A connection carries bytes both ways, many at once, and ends when it is closed."""
        assert isinstance(guest.instance, PortForwarding)
        server = await guest.start(*guest.python(_ECHO))
        port = int(await read_until(server.stdout, b"\n"))
        data = bytes(range(256)) * 4096
        stream = await guest.instance.connect(port)
        seen = b""

        async def send() -> None:
            await stream.send(data)
            await stream.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            seen = await read_all(stream)
        assert seen == data
        await stream.aclose()
        await server.kill()

    @check("ports.refused", needs=Feature.PORTS)
    async def test_ports_refused(self, guest: Guest) -> None:
        """A port that nobody listens on raises GuestConnectionError; a number that is none is refused."""
        assert isinstance(guest.instance, PortForwarding)
        with soon(), pytest.raises(GuestConnectionError):
            await guest.instance.connect(9)
        for port in (0, -1, 65536):
            with pytest.raises((InvalidRequestError, GuestConnectionError)):
                await guest.instance.connect(port)

    @check("ports.server-ends", needs=Feature.PORTS)
    async def test_ports_server_ends(self, guest: Guest) -> None:
        """When the server goes away its connections end."""
        assert isinstance(guest.instance, PortForwarding)
        server = await guest.start(*guest.python(_ECHO))
        port = int(await read_until(server.stdout, b"\n"))
        stream = await guest.instance.connect(port)
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await server.kill()
        await collect(server)
        with soon(), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        await stream.aclose()
