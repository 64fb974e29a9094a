"""What is gVisor's own in the life of a sandbox: crashes, files on the host, leftovers."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako import AsyncSandbox, Runtime
from jubako.boundary.contract import DriverContext, ExecRequest, Feature
from jubako.boundary.registry import DriverRegistry
from jubako.drivers.runsc import RunscDriver
from jubako.errors import InstanceLostError, LaunchError
from jubako.linux.procinfo import descendants, pids, read_file
from jubako.policy import FilePolicy, Mount, Policy, SandboxSpec, WritableMount

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.driver("runsc")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that a sandbox's own user can reach and write."""
    path = Path("/var/tmp") / f"jubako-{secrets.token_hex(6)}"
    path.mkdir()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def parts() -> dict[str, int]:
    """Return sentry and gofer below this process."""
    names = {b"runsc-sandbox": "sentry", b"runsc-gofer": "gofer"}
    found = {}
    for pid in descendants(os.getpid()):
        title = (read_file(f"/proc/{pid}/cmdline") or b"").split(b"\0")[0]
        if title in names:
            found[names[title]] = pid
    return found


@pytest.mark.parametrize("part", ["sentry", "gofer"])
async def test_a_crash_of_gvisor_is_no_program_s_result(part: str, tmp_path: Path) -> None:
    driver = RunscDriver()
    plan = driver.plan(SandboxSpec(), await driver.probe())
    async with anyio.create_task_group() as tasks:
        instance = await driver.create(plan, DriverContext("crashing", "test", tmp_path, tasks, lambda _: None))
        await instance.start()
        process = await instance.exec(ExecRequest(("sleep", "60")))
        os.kill(parts()[part], signal.SIGKILL)
        with anyio.fail_after(20):
            with pytest.raises(InstanceLostError):
                await process.wait()
            ended = await instance.wait()
        assert ended.code == "instance-lost"
        assert "gVisor (driver runsc) ended with status" in ended.message
        with pytest.raises(InstanceLostError, match="gVisor"):
            await instance.exec(ExecRequest(("true",)))
        await instance.destroy()
    assert parts() == {}
    await driver.aclose()


async def test_a_runsc_that_ends_at_once_is_a_failed_launch(tmp_path: Path) -> None:
    """Its words are told, and nothing of the sandbox is left."""
    driver = RunscDriver()
    report = await driver.probe()
    plan = driver.plan(SandboxSpec(), report)
    assert Feature.PROCESSES in report.features
    machine = await driver._probed()
    machine.platform = "no-such-platform"  # type: ignore[attr-defined]  # a RunscMachine
    async with anyio.create_task_group() as tasks:
        context = DriverContext("broken", "test", tmp_path, tasks, lambda _: None)
        instance = await driver.create(plan, context)
        with pytest.raises(LaunchError, match="no-such-platform"):
            await instance.start()
    assert await driver.orphans("test") == ()
    assert parts() == {}
    await driver.aclose()


@pytest.mark.root
async def test_programs_make_files_in_a_writable_mount(shared: Path) -> None:
    """They belong to a host user of the sandbox's own; what is hidden in a mount stays hidden."""
    (shared / "secret").write_text("hidden")
    (shared / "file").write_text("old")
    (shared / "file").chmod(0o666)
    policy = Policy(
        files=FilePolicy(mounts=(Mount(source=str(shared), target="/out", access="rw"),), hide=("/out/secret",)),
        relaxations=(WritableMount(source=str(shared), reason="results are collected there"),),
    )
    code = """
import os
os.makedirs("/out/deep/er")
open("/out/deep/new", "w").write("made inside")
os.chmod("/out/deep/new", 0o600)
os.symlink("new", "/out/deep/link")
os.rename("/out/deep/er", "/out/er")
open("/out/file", "a").write(" and new")
print(os.stat("/out/deep/new").st_uid, open("/out/deep/link").read())
try:
    print(open("/out/secret").read())
except OSError:
    print("no secret")
"""
    async with Runtime() as runtime, AsyncSandbox(boundary="gvisor", policy=policy, runtime=runtime) as box:
        result = await box.run(code)
        assert (result.stdout, result.stderr) == ("1000 made inside\nno secret\n", "")
    assert (shared / "file").read_text() == "old and new"
    assert (shared / "deep/new").stat().st_uid >= 1_880_000_000
    assert (shared / "deep/link").readlink() == Path("new")
    assert (shared / "er").is_dir()


async def test_nothing_of_the_host_s_gvisor_state_is_left() -> None:
    """runsc's records are in the jail's memory; the container's name is on no other process."""
    async with Runtime() as runtime, AsyncSandbox(boundary="gvisor", runtime=runtime) as box:
        assert (await box.run("print(1)")).stdout == "1\n"
        assert set(parts()) == {"sentry", "gofer"}
        assert await DriverRegistry().load("runsc").orphans(runtime.owner)
        owner = runtime.owner
    assert await DriverRegistry().load("runsc").orphans(owner) == ()
    assert not [pid for pid in pids() if f"{owner}".encode() in (read_file(f"/proc/{pid}/cmdline") or b"")]
