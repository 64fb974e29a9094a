"""A driver around another one that changes nothing, with a hook for each thing that can be broken.

What a check does is recorded as it passes through (``trace``): a defect can only show in checks that
reach it, so the others need not run for it.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, ClassVar

import anyio

from jubako.boundary.contract import (
    BoundaryKind,
    Driver,
    DriverContext,
    ExecRequest,
    ExitStatus,
    FileInfo,
    Files,
    Instance,
    InstanceExit,
    InstanceRef,
    Pausable,
    Plan,
    PortForwarding,
    ProbeReport,
    Process,
    TerminalSize,
    Usage,
    WatchEvent,
)
from jubako.errors import SandboxStateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import timedelta
    from pathlib import PurePosixPath

    from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream

    from jubako.policy import Policy, SandboxSpec

__all__ = ["BrokenDriver", "BrokenFiles", "BrokenInstance", "BrokenProcess", "changed_limits"]


class BrokenProcess:
    """A program, passed through."""

    def __init__(self, inner: Process, request: ExecRequest, owner: BrokenInstance) -> None:
        self.inner, self.request, self.owner = inner, request, owner
        self.ended = False

    @property
    def id(self) -> str:
        """The program's id."""
        self.owner.driver.trace.add("id")
        return self.inner.id

    @property
    def stdin(self) -> ByteSendStream | None:
        """Its standard input."""
        return self.inner.stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """Its standard output."""
        return self.inner.stdout

    @property
    def stderr(self) -> ByteReceiveStream:
        """Its standard error."""
        return self.inner.stderr

    async def wait(self) -> ExitStatus:
        """Return how it ended."""
        trace = self.owner.driver.trace
        trace.add("wait")
        if self.ended:
            trace.add("wait.twice")
        status = await self.inner.wait()
        self.ended = True
        facts = {
            "timed_out": status.timed_out,
            "truncated": status.truncated,
            "limits": bool(status.limits),
            "message": bool(status.message),
            "signal": status.signal is not None,
            "high": (status.code or 0) >= 128,  # where shells put signals
        }
        trace.update(f"status.{name}" for name, value in facts.items() if value)
        return self.owner.driver.change_status(status)

    async def signal(self, number: int) -> None:
        """Send a signal."""
        self.owner.driver.trace.add("signal")
        await self.inner.signal(number)

    async def kill(self) -> None:
        """End it with all its descendants."""
        self.owner.driver.trace.add("kill")
        await self.inner.kill()

    async def resize(self, size: TerminalSize) -> None:
        """Change the terminal's size."""
        self.owner.driver.trace.add("resize")
        await self.inner.resize(size)


class BrokenFiles:
    """Files, passed through."""

    def __init__(self, inner: Files, owner: BrokenInstance) -> None:
        self.inner, self.owner = inner, owner

    def _note(self, what: str) -> None:
        self.owner.driver.trace.add(f"files.{what}")

    async def read(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> bytes:
        """Return the file."""
        self._note("read")
        return await self.inner.read(path, limit=limit, offset=offset)

    async def stream(self, path: PurePosixPath, *, limit: int, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the file."""
        self._note("stream")
        async for chunk in self.inner.stream(path, limit=limit, offset=offset):
            yield chunk

    async def write(self, path: PurePosixPath, data: bytes | AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Write the file."""
        self._note("write")
        await self.inner.write(path, data, mode=mode)

    async def scan(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[FileInfo]:
        """Yield the entries."""
        self._note("scan")
        async for entry in self.inner.scan(path, recursive=recursive):
            yield entry

    async def stat(self, path: PurePosixPath) -> FileInfo:
        """Return the entry."""
        self._note("stat")
        return await self.inner.stat(path)

    async def mkdir(self, path: PurePosixPath, *, mode: int = 0o755, parents: bool = True) -> None:
        """Make a directory."""
        self._note("mkdir")
        await self.inner.mkdir(path, mode=mode, parents=parents)

    async def move(self, source: PurePosixPath, target: PurePosixPath, *, overwrite: bool = True) -> None:
        """Rename."""
        self._note("move")
        await self.inner.move(source, target, overwrite=overwrite)

    async def chmod(self, path: PurePosixPath, mode: int) -> None:
        """Set the permission bits."""
        self._note("chmod")
        await self.inner.chmod(path, mode)

    async def remove(self, path: PurePosixPath, *, recursive: bool = False) -> None:
        """Remove."""
        self._note("remove")
        await self.inner.remove(path, recursive=recursive)

    async def watch(self, path: PurePosixPath, *, recursive: bool = False) -> AsyncIterator[WatchEvent]:
        """Yield changes."""
        self._note("watch")
        async for event in self.inner.watch(path, recursive=recursive):
            yield event


class BrokenInstance:
    """An instance, passed through."""

    def __init__(self, inner: Instance, driver: BrokenDriver, context: DriverContext) -> None:
        self.inner, self.driver, self.context = inner, driver, context
        self.started = self.destroyed = False
        self.processes: list[BrokenProcess] = []

    @property
    def ref(self) -> InstanceRef:
        """Its name."""
        self.driver.trace.add("ref")
        return self.inner.ref

    @property
    def files(self) -> Files:
        """Its files."""
        if not self.started:
            self.driver.trace.add("unstarted")
        return self.driver.files_type(self.inner.files, self)

    async def start(self) -> None:
        """Start it."""
        await self.inner.start()
        self.started = True

    async def exec(self, request: ExecRequest) -> Process:
        """Start a program."""
        self._trace_request(request)
        try:
            inner = await self.inner.exec(self.driver.change_request(request))
        except anyio.get_cancelled_exc_class():
            self.driver.trace.add("exec.cancelled")
            raise
        process = self.driver.process_type(inner, request, self)
        self.processes.append(process)
        if len(self.processes) >= self.driver.MANY and not any(item.ended for item in self.processes):
            self.driver.trace.add("exec.many")
        return process

    def _trace_request(self, request: ExecRequest) -> None:
        trace = self.driver.trace
        trace.add("exec" if self.started else "unstarted")
        for name in ("cwd", "env", "user", "tty", "stdin", "timeout", "preloaded"):
            if getattr(request, name):
                trace.add(f"exec.{name}")
        if request.max_output != ExecRequest.__dataclass_fields__["max_output"].default:
            trace.add("exec.max_output")
        if "" in request.argv[1:]:
            trace.add("exec.empty")
        if any(name.startswith("JUBAKO_CANARY") for name in os.environ):
            trace.add("exec.canary")

    async def usage(self) -> Usage:
        """Return what was used."""
        self.driver.trace.add("usage")
        return await self.inner.usage()

    async def wait(self) -> InstanceExit:
        """Return why it is gone."""
        self.driver.trace.add("instance.wait")
        return await self.inner.wait()

    async def stop(self, *, grace: timedelta) -> None:
        """Ask everything inside to end."""
        self.driver.trace.add("stop")
        await self.inner.stop(grace=grace)

    async def destroy(self) -> None:
        """Remove it."""
        if self.destroyed:
            self.driver.trace.add("destroy.twice")
        if anyio.current_effective_deadline() == -math.inf:
            self.driver.trace.add("destroy.cancelled")
        self.destroyed = True
        await self.inner.destroy()

    async def pause(self) -> None:
        """Freeze it, where the inner driver can."""
        self.driver.trace.add("pause")
        if not isinstance(self.inner, Pausable):
            raise SandboxStateError("this driver can't pause")
        await self.inner.pause()

    async def resume(self) -> None:
        """Thaw it, where the inner driver can."""
        if not isinstance(self.inner, Pausable):
            raise SandboxStateError("this driver can't resume")
        await self.inner.resume()

    async def connect(self, port: int) -> ByteStream:
        """Connect to a port, where the inner driver can."""
        self.driver.trace.add("connect")
        if not isinstance(self.inner, PortForwarding):
            raise SandboxStateError("this driver has no ports")
        return await self.inner.connect(port)


class BrokenDriver:
    """A driver, passed through. Subclasses break one promise each.

    Attributes:
        breaks: Ids of the checks that must fail, and no others.
        reach: Entries of the trace without which the defect can't show; empty for any check.
    """

    breaks: ClassVar[frozenset[str]] = frozenset()
    reach: ClassVar[frozenset[str]] = frozenset()
    instance_type: type[BrokenInstance] = BrokenInstance
    process_type: type[BrokenProcess] = BrokenProcess
    files_type: type[BrokenFiles] = BrokenFiles
    MANY: ClassVar[int] = 12

    def __init__(self, inner: Driver) -> None:
        self.inner = inner
        self.trace: set[str] = set()
        self.report: ProbeReport | None = None
        self.instances: list[BrokenInstance] = []

    @property
    def name(self) -> str:
        """The inner driver's name."""
        return self.inner.name

    @property
    def boundary(self) -> BoundaryKind:
        """The inner driver's boundary."""
        return self.inner.boundary

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Hook: what is really asked of the sandbox."""
        return request

    def change_status(self, status: ExitStatus) -> ExitStatus:
        """Hook: what is said about a program's end."""
        return status

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Hook: the policy that is really enforced."""
        del context
        return policy

    async def probe(self) -> ProbeReport:
        """Say what the inner driver can do."""
        if self.report is not None:
            self.trace.add("probe.again")
        self.report = await self.inner.probe()
        return self.report

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """Return the inner driver's plan."""
        self.report = self.report or report
        self.trace.update(self._clauses(spec))
        return self.inner.plan(spec, report)

    @staticmethod
    def _clauses(spec: SandboxSpec) -> set[str]:
        default = type(spec.policy)()
        fields = type(spec.policy).model_fields
        return {f"policy.{name}" for name in fields if getattr(spec.policy, name) != getattr(default, name)}

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Make an instance."""
        if self.instances:
            self.trace.add("instance.next" if all(item.destroyed for item in self.instances) else "instance.two")
        changed = self.change_policy(plan.spec.policy, ctx)
        if changed is not plan.spec.policy and self.report is not None:
            plan = self.inner.plan(plan.spec.model_copy(update={"policy": changed}), self.report)
        instance = self.instance_type(await self.inner.create(plan, ctx), self, ctx)
        self.instances.append(instance)
        return instance

    async def attach(self, ref: InstanceRef, ctx: DriverContext) -> Instance:
        """Take over an instance."""
        return self.instance_type(await self.inner.attach(ref, ctx), self, ctx)

    async def orphans(self, owner: str | None) -> Sequence[InstanceRef]:
        """List what was left."""
        self.trace.add("orphans")
        return await self.inner.orphans(owner)

    async def reap(self, ref: InstanceRef) -> None:
        """Remove what was left."""
        self.trace.add("reap")
        await self.inner.reap(ref)

    async def aclose(self) -> None:
        """Free caches; the inner driver keeps its own for the next check."""
        self.trace.add("aclose")


def changed_limits(policy: Policy, section: str, changes: Mapping[str, object]) -> Policy:
    """Return ``policy`` with some fields of one section replaced."""
    part = getattr(policy, section)
    return policy.model_copy(update={section: part.model_copy(update=dict(changes))})
