"""A driver whose snapshots are copies of the workspace: the real process boundary, quick to write down.

What a catalogue, a restore and a fork must do is the same whatever is in the files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from jubako.boundary.contract import BoundaryKind, Feature, FileKind, ProbeReport, SnapshotRef
from jubako.boundary.registry import DriverEntry, DriverRegistry
from jubako.drivers.bwrap import BwrapDriver
from jubako.errors import SnapshotIncompatibleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jubako.boundary.contract import DriverContext, Instance, Plan

__all__ = ["CopyingDriver", "CopyingInstance", "copying_registry"]

CONTENT = "files.json"


class CopyingInstance:
    """A sandbox that can be written down."""

    def __init__(self, inner: Instance, driver: CopyingDriver, plan: Plan, files: dict[str, str]) -> None:
        self.inner, self.driver, self.plan, self.pending = inner, driver, plan, files

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def start(self) -> None:
        await self.inner.start()
        for path, text in self.pending.items():
            await self.inner.files.write(PurePosixPath(path), text.encode())

    async def copied(self) -> dict[str, str]:
        workspace = PurePosixPath(self.plan.spec.policy.files.workspace)
        found: dict[str, str] = {}
        async for entry in self.inner.files.scan(workspace, recursive=True):
            if entry.kind is FileKind.FILE:
                found[str(entry.path)] = (await self.inner.files.read(entry.path, limit=10**6)).decode()
        return found

    async def snapshot(self, directory: Path, *, memory: bool) -> SnapshotRef:
        assert memory
        assert os.listdir(directory) == []  # noqa: PTH208  # a local directory
        assert os.stat(directory).st_mode & 0o777 == 0o700  # noqa: PTH116
        text = json.dumps({"origin": self.inner.ref.handle, **await self.copied()}).encode()
        (directory / "parts").mkdir()
        (directory / "parts" / CONTENT).write_bytes(text)
        if self.driver.failure is not None:
            raise self.driver.failure
        digest = self.driver.digest or hashlib.sha256(text).hexdigest()
        return SnapshotRef(self.driver.name, digest, self.driver.parent, {"kernel": self.driver.kernel})

    async def fork(self, contexts: Sequence[DriverContext]) -> Sequence[Instance]:
        made: list[Instance] = []
        try:
            for number, context in enumerate(contexts):
                if number == self.driver.forks:
                    raise OSError(errno.ENOMEM, "no more memory")  # noqa: TRY301  # as a driver's call may
                child = self.driver.around(await BwrapDriver.create(self.driver, self.plan, context), self.plan)
                child.pending = await self.copied()
                made.append(child)
                await child.start()
        except BaseException:
            for instance in made:
                await instance.destroy()
            raise
        return made


class CopyingDriver(BwrapDriver):
    """The process boundary with snapshots."""

    name = "copying"

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.digest = ""
        self.parent: str | None = None
        self.kernel = "6"
        self.forks = -1
        self.snapshots = True

    async def probe(self) -> ProbeReport:
        report = await super().probe()
        more = {Feature.SNAPSHOT, Feature.FORK} if self.snapshots else set[Feature]()
        return replace(report, features=report.features | more)

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        return self.around(await super().create(plan, ctx), plan)

    async def restore(self, ref: SnapshotRef, directory: Path, plan: Plan, ctx: DriverContext) -> Instance:
        if ref.requires != {"kernel": self.kernel}:
            msg = "the snapshot needs another kernel"
            raise SnapshotIncompatibleError(msg, details={"kernel": self.kernel})
        content = json.loads((directory / "parts" / CONTENT).read_bytes())
        del content["origin"]
        made = self.around(await super().create(plan, ctx), plan)
        made.pending = content
        return made

    def around(self, inner: Instance, plan: Plan) -> CopyingInstance:
        return CopyingInstance(inner, self, plan, {})


def copying_registry() -> DriverRegistry:
    """Return a registry that has this driver and no other."""
    return DriverRegistry([DriverEntry("copying", f"{__name__}:CopyingDriver", BoundaryKind.PROCESS)], tuple)
