"""limits.*: what happens when a program asks for more than the policy gives."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from jubako.boundary.contract import Enforcement, Feature
from jubako.errors import InstanceLostError
from jubako.policy import FilePolicy, Policy, ResourcePolicy
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import collect, read_until, soon

if TYPE_CHECKING:
    from jubako.boundary.contract import ExitStatus
    from jubako.testing.conformance._bench import MakeGuest
    from jubako.testing.conformance._guest import Guest

__all__ = ["LimitChecks"]

_MIB = 1024 * 1024

_BOMB: Final = """
import sys
held = []
try:
    while len(held) < int(sys.argv[1]): held.append(bytearray(b"x") * (1 << 20))
except MemoryError:
    raise SystemExit(77)
print("held", len(held))
"""
_FORKS: Final = """
import os, sys, time
made = 0
try:
    for _ in range(400):
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        made += 1
except OSError as error:
    print(made, error.errno, flush=True)
    time.sleep(float(sys.argv[1]))
    raise SystemExit(77)
print(made)
"""
_OPEN: Final = """
import errno, os
os.close(os.open("file", os.O_CREAT | os.O_WRONLY))
held = []
try:
    while len(held) < 2000: held.append(os.open("file", os.O_RDONLY))
except OSError as error:
    print(len(held) + 3, errno.errorcode[error.errno])
else:
    print(len(held) + 3, "no end")
"""
_RAISE: Final = """
try:
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    print("raised")
except (ImportError, OSError, ValueError):
    print("refused")
"""
_HOLD: Final = """
import sys
for name in sys.argv[1:]:
    with open(name, "wb") as file:
        for _ in range(96): file.write(bytes(1 << 20)); file.flush()
print("held")
"""
_FILL: Final = """
import errno, os, sys
for place in sys.argv[1:]:
    name, size, why = place + "/fill", 0, "no end"
    try:
        with open(name, "wb", buffering=0) as file:
            while size < 16_000_000: size += file.write(bytes(65536))
    except OSError as error:
        why = errno.errorcode[error.errno]
    print(os.stat(name).st_size, why)
    os.remove(name)
"""
_COUNT: Final = """
import errno, os
os.mkdir("d")
made, why = 0, "no end"
try:
    while made < 2000:
        open("d/%d" % made, "x").close()
        made += 1
except OSError as error:
    why = errno.errorcode[error.errno]
print(made, why)
for number in range(made): os.remove("d/%d" % number)
"""
_SPIN: Final = """
import time
end = time.monotonic() + 1.2
while time.monotonic() < end: pass
print(time.process_time())
"""


def _require(guest: Guest, control: str, *levels: Enforcement) -> None:
    level = guest.level(control)
    if level not in levels:
        pytest.skip(f"the plan says that {control} is {level} here")


def _errors(guest: Guest, name: str) -> set[str]:
    """Return what a program may be told that ran into a limit; WASI has no word for some of Linux's errors."""
    return {name} if guest.has(Feature.PROCESSES) else {name, "EIO"}


async def _take_memory(guest: Guest) -> ExitStatus | None:
    """Run a program that takes more than 128 MiB; return how it ended, or None when the sandbox ended with it.

    Only a plan that calls the limit partial may end the sandbox, and then the limit is named as the cause.
    """
    try:
        done = await guest.py(_BOMB, "1500")
    except InstanceLostError:
        assert guest.level("resource.memory") is Enforcement.PARTIAL
        with soon():
            assert "resource.memory" in (await guest.instance.wait()).limits
        return None
    assert b"held" not in done.stdout, "1500 MiB were given under a limit of 128 MiB"
    assert done.status.code != 0
    return done.status


class LimitChecks(Checks):
    """Programs that ask for more than the policy gives."""

    @check("limits.memory")
    async def test_limits_memory(self, make_guest: MakeGuest) -> None:
        """A program that takes too much memory fails, alone; its status names the limit where it is enforced."""
        guest = await make_guest(Policy(resources=ResourcePolicy(memory=128 * _MIB)))
        _require(guest, "resource.memory", Enforcement.ENFORCED, Enforcement.PARTIAL)
        status = await _take_memory(guest)
        if status is None:
            return
        if guest.level("resource.memory") is Enforcement.ENFORCED:
            assert "resource.memory" in status.limits
            # A program that is told that there is no more, and ends by itself, was not killed for want of memory.
            assert status.oom or status.signal is None
        await guest.works()

    @check("limits.memory-sum")
    async def test_limits_memory_sum(self, make_guest: MakeGuest) -> None:
        """The memory limit counts all programs together, and files in the workspace and /tmp."""
        guest = await make_guest(Policy(resources=ResourcePolicy(memory=128 * _MIB)))
        _require(guest, "resource.memory", Enforcement.ENFORCED)
        done = await guest.py(_HOLD, "/tmp/a", "b")
        assert b"held" not in done.stdout, "192 MiB of files were held under a limit of 128 MiB"
        assert "resource.memory" in done.status.limits
        # Full of files, no program may fit any more; the files can still be removed from outside.
        await guest.files.remove(PurePosixPath("/tmp/a"))
        await guest.works()

    @check("limits.memory-fits")
    async def test_limits_memory_fits(self, make_guest: MakeGuest) -> None:
        """A program that needs less than the limit is not troubled."""
        guest = await make_guest(Policy(resources=ResourcePolicy(memory=512 * _MIB)))
        done = await guest.py(_BOMB, "300")
        assert done.stdout == b"held 300\n"
        assert not done.status.limits

    @check("limits.processes", needs=Feature.PROCESSES)
    async def test_limits_processes(self, make_guest: MakeGuest) -> None:
        """A fork bomb stops at the limit, is reported where that is seen, and leaves the sandbox able to answer."""
        guest = await make_guest(Policy(resources=ResourcePolicy(processes=24)))
        _require(guest, "resource.processes", Enforcement.ENFORCED, Enforcement.PARTIAL)
        process = await guest.start(*guest.python(_FORKS, "0.3"))
        made, error = (await read_until(process.stdout, b"\n")).split()
        assert int(made) < 24, f"{int(made)} processes under a limit of 24"
        assert int(error) == 11
        path = guest.workspace / "file"
        await guest.files.write(path, b"files still work")
        assert await guest.files.read(path, limit=100) == b"files still work"
        status = (await collect(process)).status
        assert status.code == 77
        await process.kill()
        await guest.works()
        # A limit that nothing counts still holds; then the plan says so in its reason.
        uncounted = any(item.control == "resource.processes" and item.reason for item in guest.plan.controls)
        assert uncounted or "resource.processes" in status.limits

    @check("limits.processes-exec", needs=Feature.PROCESSES)
    async def test_limits_processes_exec(self, make_guest: MakeGuest) -> None:
        """A program that can't be started for want of processes says so, as a status or a limit error."""
        guest = await make_guest(Policy(resources=ResourcePolicy(processes=16)))
        _require(guest, "resource.processes", Enforcement.ENFORCED, Enforcement.PARTIAL)
        process = await guest.start(*guest.python(_FORKS, "60"))
        await read_until(process.stdout, b"\n")
        with soon(10):
            status = (await guest.run("true")).status
        # The agent may keep room for the caller's own programs; then the program simply runs.
        assert status.code == 0 or (status.code == 126 and "resource.processes" in status.limits)
        await process.kill()
        await process.wait()
        await guest.works()

    @check("limits.open-files")
    async def test_limits_open_files(self, make_guest: MakeGuest) -> None:
        """A program can open as many descriptors as the policy says, and can't raise that."""
        guest = await make_guest(Policy(resources=ResourcePolicy(open_files=64)))
        _require(guest, "resource.open-files", Enforcement.ENFORCED)
        count, why = (await guest.says(_OPEN)).split()
        # A runtime between program and system may need a few descriptors of its own.
        runtime = 0 if Feature.PROCESSES in guest.plan.features else 16
        assert 64 - runtime <= int(count) <= 64
        assert why in _errors(guest, "EMFILE")
        assert await guest.says(_RAISE) == "refused"

    @check("limits.disk")
    async def test_limits_disk(self, make_guest: MakeGuest) -> None:
        """Each writable place is full at its size, and the sandbox works on."""
        guest = await make_guest(Policy(files=FilePolicy(workspace_size=4 * _MIB, tmp_size=2 * _MIB)))
        _require(guest, "resource.disk", Enforcement.ENFORCED)
        filled = (await guest.says(_FILL, *guest.writable)).splitlines()
        for place, line in zip(guest.writable, filled, strict=True):
            size = 4 * _MIB if place == str(guest.workspace) else 2 * _MIB
            written, why = line.split()
            assert size * 0.9 <= int(written) <= size, place
            assert why in _errors(guest, "ENOSPC"), place
        await guest.make("file=works")
        assert await guest.cat("file") == "works"

    @check("limits.inodes")
    async def test_limits_inodes(self, make_guest: MakeGuest) -> None:
        """Files can't be made without end."""
        guest = await make_guest(Policy(resources=ResourcePolicy(inodes=500)))
        _require(guest, "resource.inodes", Enforcement.ENFORCED)
        made, why = (await guest.says(_COUNT)).split()
        assert 0 < int(made) <= 500
        assert why in _errors(guest, "ENOSPC")
        await guest.works()

    @check("limits.cpu")
    async def test_limits_cpu(self, make_guest: MakeGuest) -> None:
        """All programs together get no more CPU time than the policy says."""
        guest = await make_guest(Policy(resources=ResourcePolicy(cpus=0.1)))
        _require(guest, "resource.cpu", Enforcement.ENFORCED)
        told: list[float] = []

        async def spin() -> None:
            told.append(float(await guest.says(_SPIN)))

        before, begun = (await guest.instance.usage()).cpu, anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(spin)
        after, elapsed = (await guest.instance.usage()).cpu, anyio.current_time() - begun
        # What the programs say is their own time at most; the rest of what they cost shows from outside.
        used = sum(told) if before is None or after is None else (after - before).total_seconds()
        assert used <= elapsed * 0.1 * 1.5 + 0.1, f"{used:.2f} s of CPU in {elapsed:.2f} s under a limit of 0.1 CPUs"

    @check("limits.after-bomb")
    async def test_limits_after_bomb(self, make_guest: MakeGuest) -> None:
        """A memory limit that one program ran into ends no other program and is not held against the next."""
        guest = await make_guest(Policy(resources=ResourcePolicy(memory=128 * _MIB)))
        other = await guest.echo()
        await guest.answers(other)
        if await _take_memory(guest) is None:
            return
        await guest.answers(other)
        assert not (await guest.py("pass")).status.limits
        await other.kill()

    @check("limits.after-forks", needs=Feature.PROCESSES)
    async def test_limits_after_forks(self, make_guest: MakeGuest) -> None:
        """A process limit that one program ran into ends no other program and is not held against the next."""
        guest = await make_guest(Policy(resources=ResourcePolicy(processes=24)))
        other = await guest.echo()
        await guest.answers(other)
        forks = await guest.start(*guest.python(_FORKS, "0"))
        assert (await collect(forks)).status.code == 77
        await forks.kill()  # its children stayed in the background
        await guest.answers(other)
        assert not (await guest.py("pass")).status.limits
        await other.kill()
