"""Snapshots of real gVisor sandboxes: who goes on, as whom, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.boundary.contract import DriverContext, ExecRequest, Feature, SnapshotRef
from jubako.drivers.runsc import RunscDriver
from jubako.drivers.runsc._image import digest_of, image_files, prove_room
from jubako.drivers.runsc._instance import RunscInstance
from jubako.drivers.runsc._lasting import LastingInstance
from jubako.errors import (
    InstanceLostError,
    InvalidRequestError,
    LaunchError,
    SandboxStateError,
    SnapshotError,
    SnapshotIncompatibleError,
)
from jubako.events import EventData, ProgramStarted, TraceFailed
from jubako.policy import FilePolicy, ObservePolicy, Policy, SandboxSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

pytestmark = [pytest.mark.anyio, pytest.mark.driver("runsc"), pytest.mark.root]

HAS_PANDAS = Path("/usr/lib/python3/dist-packages/pandas").is_dir()
IDENTITY = """
import json, os, random, time
import sys
found = dict(
    host=os.uname().nodename, name=open("/etc/hostname").read().strip(), machine=open("/etc/machine-id").read().strip(),
    hosts=open("/etc/hosts").read().split()[-1], bytes=os.urandom(8).hex(), random=random.random(), time=time.time(),
)
if "numpy" in sys.modules:
    import numpy, pandas
    found["numpy"] = float(numpy.random.rand())
    found["sum"] = int(pandas.DataFrame({"a": [1, 2, 3]}).a.sum())
print(json.dumps(found))
"""


class Lab:
    def __init__(self, directory: Path, tasks: TaskGroup) -> None:
        self.driver = RunscDriver()
        self.events: list[EventData] = []
        self.directory = directory
        self.made: list[RunscInstance] = []
        self._tasks = tasks

    def context(self) -> DriverContext:
        name = f"t{secrets.token_hex(6)}"
        (self.directory / name).mkdir(mode=0o700)
        return DriverContext(name, "lasting", self.directory / name, self._tasks, self.events.append)

    def place(self) -> Path:
        place = self.directory / f"image-{secrets.token_hex(4)}"
        place.mkdir(mode=0o700)
        return place

    async def start(self, spec: SandboxSpec | None = None) -> LastingInstance:
        report = await self.driver.probe()
        if Feature.SNAPSHOT not in report.features:
            pytest.skip("; ".join(item.text for item in report.reasons))
        made = await self.driver.create(self.driver.plan(spec or SandboxSpec(), report), self.context())
        assert isinstance(made, LastingInstance)
        self.made.append(made)
        await made.start()
        return made

    async def restore(self, ref: SnapshotRef, place: Path, spec: SandboxSpec | None = None) -> RunscInstance:
        plan = self.driver.plan(spec or SandboxSpec(), await self.driver.probe())
        made = await self.driver.restore(ref, place, plan, self.context())
        assert isinstance(made, RunscInstance)
        self.made.append(made)
        return made


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with anyio.create_task_group() as tasks:
        lab = Lab(tmp_path, tasks)
        yield lab
        for instance in lab.made:
            await instance.destroy()
        await lab.driver.aclose()
    left = [place for place, _, files in os.walk(tmp_path) if files and "image-" not in place]
    assert not left


async def output(instance: RunscInstance, *argv: str, preloaded: bool = False) -> str:
    process = await instance.exec(ExecRequest(argv, preloaded=preloaded))
    text = b""
    async for piece in process.stdout:
        text += piece
    status = await process.wait()
    assert status.code == 0, (status, text)
    return text.decode()


async def identity(instance: RunscInstance, *, preloaded: bool = False) -> dict[str, object]:
    found: dict[str, object] = json.loads(await output(instance, "python3", "-c", IDENTITY, preloaded=preloaded))
    assert found["host"] == found["name"] == found["hosts"]
    assert abs(float(str(found["time"])) - time.time()) < 30
    return found


def distinct(found: list[dict[str, object]], *names: str) -> None:
    for name in names:
        values = [str(item[name]) for item in found]
        assert len(set(values)) == len(values), (name, values)


async def test_children_are_others_and_the_source_stays_itself(lab: Lab) -> None:
    source = await lab.start()
    files = source.files
    before = await identity(source)
    await files.write(PurePosixPath("kept"), b"kept")
    place = lab.place()
    ref = await source.snapshot(place, memory=True)
    assert ref.digest == digest_of(place)
    after = await identity(source)
    assert {key: after[key] for key in ("host", "machine")} == {key: before[key] for key in ("host", "machine")}
    assert await files.read(PurePosixPath("kept"), limit=10) == b"kept"
    children = [await lab.restore(ref, place) for _ in range(2)]
    for number, child in enumerate(children):
        await child.start()
        assert await child.files.read(PurePosixPath("kept"), limit=10) == b"kept"
        await child.files.write(PurePosixPath("kept"), b"%d" % number)
    distinct([after, *[await identity(child) for child in children]], "host", "machine", "bytes", "random")
    assert await files.read(PurePosixPath("kept"), limit=10) == b"kept"
    assert [await child.files.read(PurePosixPath("kept"), limit=10) for child in children] == [b"0", b"1"]
    grandchild = lab.place()
    assert isinstance(children[0], LastingInstance)
    await children[0].snapshot(grandchild, memory=True)
    assert await children[0].files.read(PurePosixPath("kept"), limit=10) == b"0"


async def test_requests_made_meanwhile_wait(lab: Lab) -> None:
    source = await lab.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: source.snapshot(lab.place(), memory=True))
        await anyio.sleep(0.05)
        assert await output(source, "echo", "through") == "through\n"


async def test_a_sandbox_in_use_is_not_written_down(lab: Lab) -> None:
    source = await lab.start()
    process = await source.exec(ExecRequest(("sleep", "100")))
    place = lab.place()
    with pytest.raises(SandboxStateError):
        await source.snapshot(place, memory=True)
    with pytest.raises(InvalidRequestError):
        await source.snapshot(place, memory=False)
    assert not any(os.scandir(place))
    await process.kill()
    await process.wait()
    assert (await source.snapshot(place, memory=True)).driver == "runsc"


async def test_what_was_changed_or_cut_is_refused(lab: Lab) -> None:
    source = await lab.start()
    place = lab.place()
    ref = await source.snapshot(place, memory=True)
    (image,) = image_files(place)
    image.chmod(0o600)
    with image.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\0")
    with pytest.raises(SnapshotError, match="not what was written"):
        await lab.restore(ref, place)
    os.truncate(image, image.stat().st_size // 2)
    with pytest.raises(SnapshotError, match="not what was written"):
        await lab.restore(ref, place)
    with pytest.raises(LaunchError):
        await (await lab.restore(replace(ref, digest=digest_of(place)), place)).start()
    image.unlink()
    with pytest.raises(SnapshotError, match="holds no snapshot"):
        await lab.restore(ref, place)
    (place / "link").symlink_to("/etc/passwd")
    with pytest.raises(SnapshotError, match="not part of a snapshot"):
        await lab.restore(ref, place)


async def test_another_machine_or_plan_is_named(lab: Lab) -> None:
    source = await lab.start()
    place = lab.place()
    ref = await source.snapshot(place, memory=True)
    other = replace(ref, requires={**ref.requires, "cpu": "another"})
    with pytest.raises(SnapshotIncompatibleError, match=r"cpu \(was another, is") as raised:
        await lab.restore(other, place)
    assert raised.value.details["differs"] == ["cpu"]
    with pytest.raises(SnapshotIncompatibleError, match="made by driver bwrap"):
        await lab.restore(replace(ref, driver="bwrap"), place)
    spec = SandboxSpec(policy=Policy(files=FilePolicy(workspace="/elsewhere")))
    with pytest.raises(SnapshotIncompatibleError) as raised:
        await lab.restore(ref, place, spec)
    assert "files.workspace" in str(raised.value)


async def test_no_room_harms_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await lab.start()
    place = lab.place()

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("jubako.drivers.runsc._image.os.posix_fallocate", full)
        with pytest.raises(SnapshotError, match="no room"):
            await source.snapshot(place, memory=True)
    assert not any(os.scandir(place))
    assert await output(source, "echo", "alive") == "alive\n"
    with pytest.raises(SnapshotError):
        prove_room(Path("/proc"), 1)


async def test_a_writer_that_fails_harms_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await lab.start()
    place = lab.place()
    with monkeypatch.context() as patch:
        patch.setattr(source._machine, "nsenter", "/bin/false")
        with pytest.raises(SnapshotError, match="could not write"):
            await source.snapshot(place, memory=True)
    assert not any(os.scandir(place))
    assert await output(source, "echo", "alive") == "alive\n"
    await source.snapshot(place, memory=True)
    assert await output(source, "echo", "alive") == "alive\n"


async def test_a_source_that_can_not_go_on_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await lab.start()
    place = lab.place()

    async def refuse(*_: object) -> None:
        raise LaunchError("no more of it")

    monkeypatch.setattr(source, "_enter", refuse)
    with pytest.raises(InstanceLostError, match="did not survive a snapshot: no more of it"):
        await source.snapshot(place, memory=True)
    assert not any(os.scandir(place))
    assert (await source.wait()).code == "instance-lost"


async def test_forks_are_all_or_none(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await lab.start()
    copies = await source.fork([lab.context(), lab.context()])
    found: list[dict[str, object]] = []
    for copy in copies:
        assert isinstance(copy, RunscInstance)
        lab.made.append(copy)
        found.append(await identity(copy))
    distinct([await identity(source), *found], "host", "machine", "bytes", "random")
    calls: list[object] = []
    started = LastingInstance.start

    async def fail(instance: LastingInstance) -> None:
        calls.append(instance)
        if len(calls) == 2:
            raise LaunchError("not this one")
        await started(instance)

    monkeypatch.setattr(LastingInstance, "start", fail)
    with pytest.raises(LaunchError, match="not this one"):
        await source.fork([lab.context(), lab.context()])
    assert len(calls) == 2
    assert await output(source, "echo", "alive") == "alive\n"


async def test_what_goes_on_is_watched_as_before(lab: Lab) -> None:
    spec = SandboxSpec(policy=Policy(observe=ObservePolicy(activity=True)))
    source = await lab.start(spec)
    place = lab.place()
    ref = await source.snapshot(place, memory=True)
    child = await lab.restore(ref, place, spec)
    await child.start()
    lab.events.clear()
    await output(source, "echo", "source")
    await output(child, "echo", "child")
    await source.destroy()
    await child.destroy()
    told = [item.argv for item in lab.events if isinstance(item, ProgramStarted)]
    assert told == [("echo", "source"), ("echo", "child")]
    assert not [item for item in lab.events if isinstance(item, TraceFailed)]


async def test_a_warm_pandas_answers_in_every_child(lab: Lab) -> None:
    if not HAS_PANDAS:
        pytest.skip("the host's toolchain has no pandas (apt-get install python3-pandas)")
    spec = SandboxSpec(preload=("numpy", "pandas"))
    report = await lab.driver.probe()
    if Feature.PRELOAD not in report.features:
        pytest.skip("the driver preloads nothing")
    source = await lab.start(spec)
    place = lab.place()
    ref = await source.snapshot(place, memory=True)
    found = [await identity(source, preloaded=True)]
    for _ in range(2):
        child = await lab.restore(ref, place, spec)
        await child.start()
        found.append(await identity(child, preloaded=True))
    distinct(found, "host", "machine", "bytes", "random", "numpy")
    assert [item["sum"] for item in found] == [6, 6, 6]
