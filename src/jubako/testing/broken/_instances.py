"""Drivers that break a promise about lifecycle, isolation, limits or figures."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import anyio

from jubako.boundary.contract import ExecRequest, InstanceExit, InstanceRef, Usage
from jubako.errors import InstanceLostError, JubakoError, SandboxStateError
from jubako.policy import Mount
from jubako.testing.broken._delegate import BrokenDriver, BrokenInstance, changed_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import ByteStream

    from jubako.boundary.contract import Driver, DriverContext, Instance, Plan, Process, ToolLink
    from jubako.policy import Policy

__all__ = ["INSTANCE_DEFECTS"]

_MIB: Final = 1024 * 1024


class DestroyOnce(BrokenDriver):
    """Makes destroying again an error."""

    breaks = frozenset({"lifecycle.destroy-concurrent", "lifecycle.destroy-twice"})
    reach = frozenset({"destroy.twice"})

    class _Instance(BrokenInstance):
        async def destroy(self) -> None:
            """Refuse the second time."""
            if self.destroyed:
                raise SandboxStateError("the sandbox is destroyed")
            await super().destroy()

    instance_type = _Instance


class DestroysLater(BrokenDriver):
    """Returns from destroy at once and does the work some time later."""

    breaks = frozenset({
        "lifecycle.destroy-any-state", "lifecycle.destroy-concurrent", "lifecycle.destroy-leaves-nothing",
        "lifecycle.destroyed", "lifecycle.orphans", "pause.destroy",
    })  # fmt: skip
    reach = frozenset({"destroy.twice"})

    class _Instance(BrokenInstance):
        async def destroy(self) -> None:
            """Begin; the second call does it."""
            if self.destroyed or not self.started:
                await super().destroy()
                return
            self.destroyed = True
            self.context.tasks.start_soon(self._later)

        async def _later(self) -> None:
            await anyio.sleep(0.5)
            with anyio.CancelScope(shield=True):
                await self.inner.destroy()

    instance_type = _Instance


class DestroyCancellable(BrokenDriver):
    """Gives up destroying when the caller is cancelled."""

    breaks = frozenset({"lifecycle.destroy-cancelled"})
    reach = frozenset({"destroy.cancelled"})

    class _Instance(BrokenInstance):
        async def destroy(self) -> None:
            """Look whether to go on first."""
            await anyio.lowlevel.checkpoint()
            await super().destroy()

    instance_type = _Instance


class RemembersOrphans(BrokenDriver):
    """Lists destroyed instances as left behind."""

    breaks = frozenset({"lifecycle.orphans"})
    reach = frozenset({"orphans"})

    async def orphans(self, owner: str | None) -> Sequence[InstanceRef]:
        """Add them."""
        gone = [item.ref for item in self.instances if item.destroyed and owner in {None, item.ref.owner}]
        return (*await super().orphans(owner), *gone)


class FailedCreateLeaves(BrokenDriver):
    """Leaves a record of a launch that failed."""

    breaks = frozenset({"lifecycle.create-failed"})
    reach = frozenset({"orphans"})

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.left: list[InstanceRef] = []

    class _Instance(BrokenInstance):
        async def start(self) -> None:
            """Note the failure."""
            try:
                await super().start()
            except JubakoError:
                if isinstance(self.driver, FailedCreateLeaves):
                    self.driver.left.append(self.ref)
                raise

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Note the failure."""
        try:
            return await super().create(plan, ctx)
        except JubakoError:
            self.left.append(InstanceRef(self.name, ctx.sandbox_id, ctx.owner))
            raise

    async def orphans(self, owner: str | None) -> Sequence[InstanceRef]:
        """Add what was noted."""
        return (*await super().orphans(owner), *(ref for ref in self.left if owner in {None, ref.owner}))

    instance_type = _Instance


class ReapFails(BrokenDriver):
    """Makes reaping what is gone an error."""

    breaks = frozenset({"lifecycle.reap"})
    reach = frozenset({"reap"})

    async def reap(self, ref: InstanceRef) -> None:
        """Refuse what is unknown."""
        if ref not in await self.inner.orphans(None):
            raise InstanceLostError("no such sandbox")
        await super().reap(ref)


class CloseDestroys(BrokenDriver):
    """Ends instances when the driver is closed."""

    breaks = frozenset({"lifecycle.closed-driver"})
    reach = frozenset({"aclose"})

    async def aclose(self) -> None:
        """Destroy all."""
        await super().aclose()
        for instance in self.instances:
            await instance.inner.destroy()


class WrongRef(BrokenDriver):
    """Names another driver in its references."""

    breaks = frozenset({"lifecycle.ref"})
    reach = frozenset({"ref"})

    class _Instance(BrokenInstance):
        @property
        def ref(self) -> InstanceRef:
            """A reference that leads nowhere."""
            return replace(self.inner.ref, driver="another")

    instance_type = _Instance


class StartsByItself(BrokenDriver):
    """Starts a sandbox at its first program."""

    breaks = frozenset({"lifecycle.before-start"})
    reach = frozenset({"unstarted"})

    class _Instance(BrokenInstance):
        async def exec(self, request: ExecRequest) -> Process:
            """Start first."""
            if not self.started:
                await self.start()
            return await super().exec(request)

    instance_type = _Instance


class StopsAtOnce(BrokenDriver):
    """Kills at a stop without asking first."""

    breaks = frozenset({"stop.graceful", "stop.prompt"})
    reach = frozenset({"stop"})

    class _Instance(BrokenInstance):
        async def stop(self, *, grace: timedelta) -> None:
            """Kill, then stop."""
            for process in self.processes:
                if not process.ended and not self.destroyed:
                    await process.inner.kill()
            await super().stop(grace=grace)

    instance_type = _Instance


class StopsSlowly(BrokenDriver):
    """Waits out the whole grace, even when nothing runs any more."""

    breaks = frozenset({"stop.prompt"})
    reach = frozenset({"stop"})

    class _Instance(BrokenInstance):
        async def stop(self, *, grace: timedelta) -> None:
            """Wait, then stop."""
            await super().stop(grace=grace)
            await anyio.sleep(grace.total_seconds())

    instance_type = _Instance


class NeverGone(BrokenDriver):
    """Doesn't say when an instance is gone."""

    breaks = frozenset({
        "lifecycle.destroy-any-state", "lifecycle.destroy-cancelled", "lifecycle.wait-destroyed", "loss.destroy",
        "loss.first-process", "loss.noticed",
    })  # fmt: skip
    reach = frozenset({"instance.wait"})

    class _Instance(BrokenInstance):
        async def wait(self) -> InstanceExit:
            """Wait for ever."""
            await anyio.sleep_forever()
            return InstanceExit("destroyed")

    instance_type = _Instance


class ForgetsCause(BrokenDriver):
    """Calls a sandbox that died destroyed, once it was."""

    breaks = frozenset({"loss.destroy"})
    reach = frozenset({"instance.wait"})

    class _Instance(BrokenInstance):
        async def wait(self) -> InstanceExit:
            """Forget."""
            return InstanceExit("destroyed") if self.destroyed else await super().wait()

    instance_type = _Instance


class PauseDoesNothing(BrokenDriver):
    """Declares a pause and goes on."""

    breaks = frozenset({"pause.freezes"})
    reach = frozenset({"pause"})

    class _Instance(BrokenInstance):
        async def pause(self) -> None:
            """Do nothing."""

        async def resume(self) -> None:
            """Do nothing."""

    instance_type = _Instance


class SharesSandbox(BrokenDriver):
    """Gives two callers one sandbox."""

    breaks = frozenset({
        "isolation.files", "isolation.identity", "isolation.processes", "isolation.shared-memory", "isolation.sockets",
        "lifecycle.ref",
    })  # fmt: skip
    reach = frozenset({"instance.two"})

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.users: dict[int, int] = {}

    class _Instance(BrokenInstance):
        async def start(self) -> None:
            """Start the first time."""
            if isinstance(self.driver, SharesSandbox) and any(
                item.started and item.inner is self.inner for item in self.driver.instances
            ):
                self.started = True
                return
            await super().start()

        async def destroy(self) -> None:
            """Destroy when nobody else uses it."""
            others = [item for item in self.driver.instances if item.inner is self.inner and item is not self]
            if all(item.destroyed for item in others):
                await super().destroy()
            self.destroyed = True

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Hand the first one out again."""
        for known in self.instances:
            if known.started and not known.destroyed:
                made = self.instance_type(known.inner, self, ctx)
                self.instances.append(made)
                return made
        return await super().create(plan, ctx)

    instance_type = _Instance


class ShowsHostFiles(BrokenDriver):
    """Brings a directory of the host along that nobody listed."""

    breaks = frozenset({"isolation.host-files", "isolation.mounts"})

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Add the parent of the state directory."""
        place = str(context.state_dir.parent)
        extra = Mount(source=place, target=place, access="ro")
        return changed_limits(policy, "files", {"mounts": (*policy.files.mounts, extra)})


class ForgetsMounts(BrokenDriver):
    """Drops the policy's mounts."""

    breaks = frozenset({"isolation.mounts", "lifecycle.create-failed"})
    reach = frozenset({"policy.files"})

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Drop them."""
        del context
        return changed_limits(policy, "files", {"mounts": ()})


class ForgetsHiding(BrokenDriver):
    """Shows what the policy hides."""

    breaks = frozenset({"isolation.hidden"})
    reach = frozenset({"policy.files"})

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Drop the list."""
        del context
        return changed_limits(policy, "files", {"hide": ()})


class ForgetsSizes(BrokenDriver):
    """Gives writable places more room than the policy."""

    breaks = frozenset({"files.disk-full", "limits.disk"})
    reach = frozenset({"policy.files"})

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Use large sizes."""
        del context
        return changed_limits(policy, "files", {"workspace_size": 64 * _MIB, "tmp_size": 64 * _MIB})


class ForgetsMemory(BrokenDriver):
    """Gives more memory than the policy."""

    breaks = frozenset({"limits.after-bomb", "limits.memory", "limits.memory-sum", "preload.memory"})
    reach = frozenset({"policy.resources"})

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Use much memory."""
        del context
        return changed_limits(policy, "resources", {"memory": 2048 * _MIB})


class ForgetsProcesses(BrokenDriver):
    """Allows more processes than the policy."""

    breaks = frozenset({"limits.after-forks", "limits.processes", "preload.processes"})
    reach = frozenset({"policy.resources"})

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Allow many."""
        del context
        return changed_limits(policy, "resources", {"processes": 1000})


class ForgetsOpenFiles(BrokenDriver):
    """Allows more descriptors than the policy."""

    breaks = frozenset({"limits.open-files"})
    reach = frozenset({"policy.resources"})

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Allow many."""
        del context
        return changed_limits(policy, "resources", {"open_files": 1024})


class ForgetsCpu(BrokenDriver):
    """Gives more CPU time than the policy."""

    breaks = frozenset({"limits.cpu"})
    reach = frozenset({"policy.resources"})

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Give much."""
        del context
        return changed_limits(policy, "resources", {"cpus": 64.0})


class UsageZero(BrokenDriver):
    """Says that nothing was used, always."""

    breaks = frozenset({"usage.cpu", "usage.disk", "usage.memory", "usage.processes"})
    reach = frozenset({"usage"})

    class _Instance(BrokenInstance):
        async def usage(self) -> Usage:
            """Make the figures up."""
            return replace(await super().usage(), cpu=timedelta(0), memory=0, memory_peak=0, processes=0, disk=0)

    instance_type = _Instance


class UsageUnknown(BrokenDriver):
    """Gives no figures although something counts."""

    breaks = frozenset({"usage.cpu", "usage.disk", "usage.memory", "usage.processes"})
    reach = frozenset({"usage"})

    class _Instance(BrokenInstance):
        async def usage(self) -> Usage:
            """Leave the figures out."""
            return replace(await super().usage(), cpu=None, memory=None, memory_peak=None, processes=None, disk=None)

    instance_type = _Instance


class UsageStale(BrokenDriver):
    """Gives figures without saying of when."""

    breaks = frozenset({"usage.time"})
    reach = frozenset({"usage"})

    class _Instance(BrokenInstance):
        async def usage(self) -> Usage:
            """Drop the time zone."""
            usage = await super().usage()
            return replace(usage, at=usage.at.replace(tzinfo=None))

    instance_type = _Instance


class VagueConnect(BrokenDriver):
    """Raises a bare error for a port that nobody listens on."""

    breaks = frozenset({"ports.refused"})
    reach = frozenset({"connect"})

    class _Instance(BrokenInstance):
        async def connect(self, port: int) -> ByteStream:
            """Flatten the error."""
            try:
                return await super().connect(port)
            except JubakoError as error:
                raise ConnectionError("refused") from error

    instance_type = _Instance


class ToolsOneByOne(BrokenDriver):
    """Lets one call of a host function wait for the other."""

    breaks = frozenset({"tools.concurrent"})
    reach = frozenset({"policy.tools"})

    class _Link:
        def __init__(self, inner: ToolLink) -> None:
            self.inner = inner
            self.lock = anyio.Lock()

        async def call(self, tool: str, arguments: bytes) -> bytes:
            """Wait for the turn."""
            async with self.lock:
                return await self.inner.call(tool, arguments)

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Put a queue in front of the host's functions."""
        return await super().create(plan, replace(ctx, tools=self._Link(ctx.tools)) if ctx.tools else ctx)


class ToolsGarbled(BrokenDriver):
    """Loses what is not ASCII on the way to the host's functions."""

    breaks = frozenset({"tools.unicode"})
    reach = frozenset({"policy.tools"})

    class _Link:
        def __init__(self, inner: ToolLink) -> None:
            self.inner = inner

        async def call(self, tool: str, arguments: bytes) -> bytes:
            """Lose it."""
            return await self.inner.call(tool, arguments.decode().encode("ascii", "replace"))

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Put the loss in front of the host's functions."""
        return await super().create(plan, replace(ctx, tools=self._Link(ctx.tools)) if ctx.tools else ctx)


INSTANCE_DEFECTS: Final[tuple[type[BrokenDriver], ...]] = (
    DestroyOnce,
    DestroysLater,
    DestroyCancellable,
    RemembersOrphans,
    FailedCreateLeaves,
    ReapFails,
    CloseDestroys,
    WrongRef,
    StartsByItself,
    StopsAtOnce,
    StopsSlowly,
    NeverGone,
    ForgetsCause,
    PauseDoesNothing,
    SharesSandbox,
    ShowsHostFiles,
    ForgetsMounts,
    ForgetsHiding,
    ForgetsSizes,
    ForgetsMemory,
    ForgetsProcesses,
    ForgetsOpenFiles,
    ForgetsCpu,
    UsageZero,
    UsageUnknown,
    UsageStale,
    VagueConnect,
    ToolsOneByOne,
    ToolsGarbled,
)
