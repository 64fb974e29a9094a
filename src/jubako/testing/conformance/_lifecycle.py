"""lifecycle.*: what may be called in which state, and what is left when an instance is gone."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from jubako.boundary.contract import ExecRequest, Feature, InstanceRef, Pausable
from jubako.errors import InstanceLostError, JubakoError, SandboxStateError
from jubako.policy import FilePolicy, Mount, Policy
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import collect, eventually, host_processes, marker, soon

if TYPE_CHECKING:
    from jubako.boundary.contract import Driver, Instance
    from jubako.testing.conformance._bench import MakeGuest, Workbench
    from jubako.testing.conformance._guest import Guest

__all__ = ["LifecycleChecks", "refuses"]

_TICKS: Final = "import time\nwhile True: print('tick', flush=True); time.sleep(0.01)"
_GONE = (SandboxStateError, InstanceLostError)


async def refuses(instance: Instance, *errors: type[JubakoError]) -> None:
    """Check that an instance that doesn't run refuses programs and files at once."""
    path = PurePosixPath("file")
    with soon():
        with pytest.raises(errors):
            await collect(await instance.exec(ExecRequest(("python3", "-c", "pass"))))
        with pytest.raises(errors):
            await instance.files.write(path, b"x")
        with pytest.raises(errors):
            await instance.files.read(path, limit=10)
        with pytest.raises(errors):
            await instance.files.stat(path)


class LifecycleChecks(Checks):
    """States, and what is left."""

    @check("lifecycle.ref")
    async def test_lifecycle_ref(self, bench: Workbench) -> None:
        """An instance's reference names driver, sandbox and owner."""
        plan = (await bench.make_guest()).plan
        context = bench.context()
        instance = await bench.driver.create(plan, context)
        try:
            assert instance.ref == InstanceRef(bench.driver.name, context.sandbox_id, context.owner)
        finally:
            await instance.destroy()

    @check("lifecycle.before-start")
    async def test_lifecycle_before_start(self, make_guest: MakeGuest) -> None:
        """Before the start programs and files are refused, and the start works afterwards."""
        guest = await make_guest(start=False)
        await refuses(guest.instance, SandboxStateError)
        await guest.instance.start()
        await guest.works()

    @check("lifecycle.start-twice")
    async def test_lifecycle_start_twice(self, guest: Guest) -> None:
        """A second start is refused or does nothing: what runs and what was written stays."""
        process = await guest.echo()
        await guest.answers(process)
        await guest.files.write(guest.workspace / "file", b"kept")
        with contextlib.suppress(SandboxStateError):
            await guest.instance.start()
        await guest.answers(process)
        assert await guest.cat("file") == "kept"
        await process.kill()

    @check("lifecycle.stopped")
    async def test_lifecycle_stopped(self, guest: Guest) -> None:
        """After a stop programs and files are refused; stopping again is no error."""
        await guest.instance.stop(grace=timedelta(seconds=1))
        await refuses(guest.instance, SandboxStateError)
        await guest.instance.stop(grace=timedelta(seconds=1))

    @check("lifecycle.destroyed")
    async def test_lifecycle_destroyed(self, guest: Guest) -> None:
        """After destroy everything is refused, a new start too."""
        await guest.instance.destroy()
        await refuses(guest.instance, *_GONE)
        with pytest.raises(_GONE):
            await guest.instance.start()

    @check("lifecycle.destroy-any-state")
    async def test_lifecycle_destroy_any_state(self, make_guest: MakeGuest) -> None:
        """Destroy works on an instance that was never started, one that runs and one that was stopped."""
        for state in ("created", "running", "stopped"):
            guest = await make_guest(start=state != "created")
            if state == "stopped":
                await guest.instance.stop(grace=timedelta(0))
            with soon(10):
                await guest.instance.destroy()
                assert (await guest.instance.wait()).code == "destroyed"

    @check("lifecycle.destroy-twice")
    async def test_lifecycle_destroy_twice(self, guest: Guest) -> None:
        """Destroying again is no error, and neither is stopping what is gone."""
        await guest.instance.destroy()
        await guest.instance.destroy()
        await guest.instance.stop(grace=timedelta(0))
        await guest.instance.destroy()

    @check("lifecycle.destroy-concurrent")
    async def test_lifecycle_destroy_concurrent(self, guest: Guest) -> None:
        """Several tasks may destroy at once; all return when it is gone."""
        mark = marker()
        await guest.idle(mark)
        remaining: list[list[int]] = []

        async def destroy() -> None:
            await guest.instance.destroy()
            remaining.append(host_processes(mark))

        with soon(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(destroy)
        assert remaining == [[]] * 4

    @check("lifecycle.destroy-busy")
    async def test_lifecycle_destroy_busy(self, guest: Guest) -> None:
        """Destroy under running calls ends each of them, with a status or an error of jubako."""
        process = await guest.echo()
        ended: list[str] = []

        async def call(name: str) -> None:
            try:
                if name == "wait":
                    await process.wait()
                elif name == "read":
                    await process.stdout.receive()
                elif name == "exec":
                    while True:
                        await guest.py("pass")
                else:
                    while True:
                        await guest.files.write(guest.workspace / "file", b"x" * 1000)
            except (JubakoError, anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                pass
            ended.append(name)

        with soon(10):
            async with anyio.create_task_group() as tasks:
                for name in ("wait", "read", "exec", "files"):
                    tasks.start_soon(call, name)
                await anyio.sleep(0.1)
                await guest.instance.destroy()
        assert sorted(ended) == ["exec", "files", "read", "wait"]

    @check("lifecycle.destroy-cancelled")
    async def test_lifecycle_destroy_cancelled(self, guest: Guest) -> None:
        """Destroy does its work also when its caller is being cancelled."""
        mark = marker()
        await guest.answers(await guest.echo(mark))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await guest.instance.destroy()

        async def gone() -> bool:
            return not host_processes(mark)

        await eventually(gone, "the host sees no process of the sandbox")
        with soon():
            assert (await guest.instance.wait()).code == "destroyed"

    @check("lifecycle.destroy-leaves-nothing", needs=Feature.PROCESSES)
    async def test_lifecycle_destroy_leaves_nothing(self, bench: Workbench) -> None:
        """When destroy returns no process of the sandbox is left, stubborn and detached ones included."""
        guest = await bench.make_guest()
        mark = marker()
        script = 'trap "" TERM HUP INT; setsid sleep "$1" & (setsid sleep "$1" &); echo; sleep "$1"'
        await guest.start(*guest.shell(script, mark))
        await guest.until_alive(mark, 4)
        await guest.instance.destroy()
        assert host_processes(mark) == []
        assert host_processes(guest.instance.ref.handle) == []

    @check("lifecycle.orphans")
    async def test_lifecycle_orphans(self, bench: Workbench) -> None:
        """A destroyed instance is no orphan, neither of its owner nor of anybody."""
        guest = await bench.make_guest()
        never_started = await bench.make_guest(start=False)
        await guest.works()
        for made in (guest, never_started):
            await made.instance.destroy()
        handles = {guest.instance.ref.handle, never_started.instance.ref.handle}
        for owner in (bench.owner, None):
            assert not handles & {ref.handle for ref in await bench.driver.orphans(owner)}

    @check("lifecycle.reap")
    async def test_lifecycle_reap(self, bench: Workbench) -> None:
        """Reaping what is gone, or never was, is no error, again and again."""
        instance = await bench.make_instance()
        await instance.destroy()
        unknown = InstanceRef(bench.driver.name, "t0123456789ab", "nobody-at-all")
        for ref in (instance.ref, unknown, instance.ref, unknown):
            await bench.driver.reap(ref)
        assert await bench.driver.orphans("nobody-at-all") == type(await bench.driver.orphans("nobody-at-all"))()

    @check("lifecycle.attach-gone")
    async def test_lifecycle_attach_gone(self, bench: Workbench) -> None:
        """Attaching to what is gone raises InstanceLostError."""
        instance = await bench.make_instance()
        await instance.destroy()
        with pytest.raises(InstanceLostError):
            await bench.driver.attach(instance.ref, bench.context())

    @check("lifecycle.create-failed")
    async def test_lifecycle_create_failed(self, bench: Workbench) -> None:
        """A launch that fails raises an error of jubako and leaves nothing behind."""
        missing = f"/no/such/host/directory-{marker()}"
        policy = Policy(files=FilePolicy(mounts=(Mount(source=missing, target="/data", access="ro"),)))
        with soon(15), pytest.raises(JubakoError):
            await bench.make_guest(policy)
        refs = await bench.driver.orphans(bench.owner)
        assert not refs
        assert host_processes(missing) == []
        assert (await bench.make_guest()).level("fs.workspace") is not None

    @check("lifecycle.wait-destroyed")
    async def test_lifecycle_wait_destroyed(self, guest: Guest) -> None:
        """Waiting for an instance returns when it is destroyed, to everyone who waits, and later too."""
        codes: list[str] = []

        async def wait() -> None:
            codes.append((await guest.instance.wait()).code)

        with soon(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(wait)
                await anyio.sleep(0.1)
                assert codes == []
                await guest.instance.destroy()
        await wait()
        assert codes == ["destroyed"] * 3

    @check("lifecycle.independent")
    async def test_lifecycle_independent(self, make_guest: MakeGuest) -> None:
        """Destroying one sandbox leaves the others as they are."""
        first, second = await make_guest(), await make_guest()
        process = await second.echo()
        await first.instance.destroy()
        await second.answers(process)
        await process.kill()

    @check("lifecycle.many", timeout=60)
    async def test_lifecycle_many(self, make_guest: MakeGuest) -> None:
        """Sandboxes can be made, used and destroyed side by side."""
        outputs: set[str] = set()

        async def one(number: int) -> None:
            guest = await make_guest()
            outputs.add(await guest.says("import sys; print('sandbox', sys.argv[1])", str(number)))
            await guest.instance.destroy()

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(one, number)
        assert outputs == {f"sandbox {number}" for number in range(8)}

    @check("lifecycle.descriptors", exclusive=True)
    async def test_lifecycle_descriptors(self, make_guest: MakeGuest) -> None:
        """A destroyed sandbox leaves no descriptor and no child process in the host's program."""

        def holdings() -> tuple[int, int]:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
            return len(os.listdir("/proc/self/fd")), len(children)  # noqa: PTH208  # names only

        async def once() -> None:
            guest = await make_guest()
            await guest.works()
            await guest.files.write(guest.workspace / "file", b"x")
            await guest.idle(stdin=True)
            await guest.instance.destroy()

        await once()  # whatever the driver keeps for good is there now
        await anyio.sleep(0.05)
        before = holdings()
        for _ in range(3):
            await once()

        async def same() -> bool:
            return holdings() <= before

        await eventually(same, f"descriptors and children are back at {before}, now {holdings()}")

    @check("lifecycle.closed-driver")
    async def test_lifecycle_closed_driver(self, driver: Driver, guest: Guest) -> None:
        """Closing a driver frees its caches only: its instances live on, and it can be used again."""
        await driver.aclose()
        await guest.works()
        assert (await driver.probe()).available

    @check("pause.freezes", needs=Feature.PAUSE)
    async def test_pause_freezes(self, guest: Guest) -> None:
        """Between pause and resume nothing inside runs; afterwards it goes on where it was."""
        instance = guest.instance
        assert isinstance(instance, Pausable)
        process = await guest.start(*guest.python(_TICKS))
        seen = 0

        async def count() -> None:
            nonlocal seen
            async for chunk in process.stdout:
                seen += chunk.count(b"tick")

        async def ticking() -> bool:
            before = seen
            await anyio.sleep(0.05)
            return seen > before

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            await eventually(ticking, "the program ticks")
            await instance.pause()
            await anyio.sleep(0.1)  # what was under way arrives
            before = seen
            await anyio.sleep(0.3)
            assert seen == before, "the program went on during the pause"
            await instance.resume()
            await eventually(ticking, "the program ticks again")
            tasks.cancel_scope.cancel()
        await guest.works()

    @check("pause.twice", needs=Feature.PAUSE)
    async def test_pause_twice(self, guest: Guest) -> None:
        """Pausing or resuming twice is refused or does nothing."""
        instance = guest.instance
        assert isinstance(instance, Pausable)
        for act in (instance.pause, instance.pause, instance.resume, instance.resume):
            try:
                await act()
            except SandboxStateError:
                continue
        await guest.works()

    @check("pause.destroy", needs=Feature.PAUSE)
    async def test_pause_destroy(self, guest: Guest) -> None:
        """A paused sandbox can be destroyed."""
        instance = guest.instance
        assert isinstance(instance, Pausable)
        mark = marker()
        await guest.answers(await guest.echo(mark))
        await instance.pause()
        with soon(10):
            await instance.destroy()
        assert host_processes(mark) == []
