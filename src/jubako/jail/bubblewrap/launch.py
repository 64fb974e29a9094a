"""Start bubblewrap with the agent as the first process inside, inside its cgroup.

Order of a launch, each step undone if a later one fails:

1. a socketpair for the agent, a pipe for bubblewrap's report, descriptors for made-up files;
2. bubblewrap starts and builds namespaces and mounts; it names its first process, the agent;
3. beside that, a worker thread makes the cgroup and puts bubblewrap and the agent into it. Nothing
   but the agent's own start-up runs until then: the instance sends no request before ``join``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import anyio
from anyio import to_thread

from jubako.errors import JubakoError, LaunchError
from jubako.jail.bubblewrap.layout import ETC_FILES
from jubako.jail.group import LaunchGroup
from jubako.jail.leftovers import MARKER, remove_processes
from jubako.jail.names import sandbox_id
from jubako.jail.users import drop_prefix, random_uid
from jubako.linux.procinfo import parent_pid
from jubako.linux.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup

    from jubako.boundary.contract import Plan
    from jubako.jail.bubblewrap.probe import Machine
    from jubako.linux.cgroup import Cgroup
    from jubako.linux.spawn import Child
    from jubako.policy import Policy

__all__ = ["AGENT_PATH", "Launched", "launch"]

AGENT_PATH: Final = "/run/jubako/agent.pyc"
_INFO_LIMIT: Final = 4096
_START_SECONDS: Final = 20.0

_NAMESPACES: Final = (
    "--unshare-user",
    "--disable-userns",  # control: syscall.no-nested-namespaces
    "--unshare-ipc",  # control: process.ipc
    "--unshare-pid",  # control: process.isolation
    "--unshare-net",  # control: net.default-deny
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--die-with-parent",
    "--as-pid-1",
    "--clearenv",  # control: process.environment
    "--uid",
    "1000",
    "--gid",
    "1000",
    # For the agent's own start-up: it mounts the writable places and then gives both up, before it
    # serves; the host verifies that from outside. They reach no further than the user namespace.
    "--cap-add",
    "CAP_SYS_ADMIN",
    "--cap-add",
    "CAP_SETPCAP",
)


@dataclass(slots=True)
class Launched:
    """A sandbox whose first process runs: the monitor outside, pid 1 as the host sees it, the stream."""

    monitor: Child
    pid: int
    pidfd: int
    stream: socket.socket
    group: LaunchGroup

    @property
    def cgroup(self) -> Cgroup | None:
        """The sandbox's cgroup, where there is one."""
        return self.group.made

    def kill(self) -> None:
        """Kill the first process, and with it the whole pid namespace; no error when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.monitor.kill()

    async def ended(self) -> None:
        """Return once bubblewrap, and with it the sandbox, has ended."""
        await self.monitor.wait()

    def last_words(self) -> str:
        """Return what bubblewrap or the agent said on their error output so far."""
        return self.monitor.stderr_text()

    async def tear_down(self) -> None:
        """End every process and remove the cgroup; namespaces and mounts go with the last process.

        A frozen cgroup (v1) delivers no signal, so the cgroup thaws and kills what is left in it.
        """
        self.kill()
        await self.group.remove()
        await anyio.wait_readable(self.pidfd)
        await self.monitor.aclose()
        os.close(self.pidfd)
        # Last: until here the session's reader may still wait on it, see SocketStream.
        self.stream.close()


class _Descriptors:
    """Descriptors of one launch: ours to keep, theirs to pass on and close as soon as they are passed."""

    def __init__(self) -> None:
        self.theirs: list[int] = []
        self.agent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.agent.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self.agent_theirs = self._pass(theirs.detach())
        self.info, info_theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.info_theirs = self._pass(info_theirs)

    def _pass(self, descriptor: int) -> str:
        self.theirs.append(descriptor)
        return str(descriptor)

    def content(self, data: bytes) -> str:
        """Return a descriptor from which bubblewrap reads ``data`` once."""
        descriptor = os.memfd_create("jubako", os.MFD_CLOEXEC)
        self._pass(descriptor)
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return str(descriptor)

    def close_theirs(self) -> None:
        while self.theirs:
            os.close(self.theirs.pop())

    def close_ours(self) -> None:
        if self.info >= 0:
            os.close(self.info)
            self.info = -1


async def launch(plan: Plan, machine: Machine, tasks: TaskGroup, *, name: str, agent: bytes) -> Launched:
    """Build the walls and return with the first process running inside.

    Args:
        plan: What to build.
        machine: The probe's findings: paths, cgroups, how to leave root.
        tasks: Where the cgroup is made meanwhile.
        name: the sandbox's full name (``jail.names``), also the cgroup's; the id is the host name inside.
        agent: The agent's code for the guest's interpreter.

    Raises:
        LaunchError: With what bubblewrap said; nothing is left.
    """
    descriptors = _Descriptors()
    group = LaunchGroup(machine.cgroups, machine.groups, plan, name)
    child: Child | None = None
    try:
        argv = _arguments(plan, machine, descriptors, agent=agent, name=name)
        # control: process.descriptors - everything else is close-on-exec, and closed by Popen besides
        child = spawn([*group.prefix, *argv], pass_fds=tuple(descriptors.theirs), env=group.environment, cwd="/")
        descriptors.close_theirs()
        tasks.start_soon(group.make, child.pid)
        with anyio.fail_after(_START_SECONDS):
            pid = await _first_pid(descriptors.info)
        if pid is None:
            said = child.stderr_text() or f"exit status {await child.wait()}"
            msg = f"bubblewrap ended before the sandbox stood: {said}"
            raise LaunchError(msg, hint="jubako doctor says what this machine allows")  # noqa: TRY301  # undone below
        pidfd = _pidfd_of_child(pid, child)
        group.add(pid)
        return Launched(child, pid, pidfd, descriptors.agent, group)
    except BaseException as error:
        descriptors.agent.close()
        with anyio.CancelScope(shield=True):
            await _undo(child, group, name)
        if isinstance(error, JubakoError) or not isinstance(error, OSError):
            raise
        slow = isinstance(error, TimeoutError)
        msg = (
            f"bubblewrap did not start within {_START_SECONDS:.0f} s" if slow else f"bubblewrap did not start: {error}"
        )
        raise LaunchError(msg, hint="jubako doctor") from error
    finally:
        descriptors.close_theirs()
        descriptors.close_ours()


def _pidfd_of_child(pid: int, monitor: Child) -> int:
    """Return a descriptor for the first process, sure that the number was not given to another meanwhile."""
    with contextlib.suppress(ProcessLookupError):  # it may be gone by now, having said why
        pidfd = os.pidfd_open(pid)
        if monitor.poll() is None and parent_pid(pid) == monitor.pid:
            return pidfd
        os.close(pidfd)
    said = monitor.stderr_text()
    msg = f"the sandbox's first process ended at once{': ' if said else ''}{said}"
    raise LaunchError(msg)


async def _undo(child: Child | None, group: LaunchGroup, name: str) -> None:
    if child is not None:
        child.kill()
        await child.wait()
        # Killed before it wrote the user map, bubblewrap leaves a child that waits for that for good.
        await to_thread.run_sync(remove_processes, name)
    await group.remove()


def _arguments(plan: Plan, machine: Machine, descriptors: _Descriptors, *, agent: bytes, name: str) -> list[str]:
    """Return the whole argument vector; order matters to bubblewrap."""
    policy = plan.spec.policy
    argv = list(drop_prefix(machine.drop[0], random_uid())) if machine.drop else []
    hostname = sandbox_id(name)
    argv += [machine.bwrap, *_NAMESPACES, "--hostname", hostname]
    argv += [str(item) for item in cast("Sequence[object]", plan.payload["mounts"])]
    filled = {"hostname": hostname, "machine_id": secrets.token_hex(16), "home": policy.files.workspace}
    for file, text in ETC_FILES.items():
        argv += ["--perms", "0444", "--file", descriptors.content(text.format(**filled).encode()), f"/etc/{file}"]
    argv += ["--perms", "0755", "--dir", "/run", "--perms", "0755", "--dir", "/run/jubako"]
    argv += ["--perms", "0444", "--file", descriptors.content(agent), AGENT_PATH]
    for hidden in policy.files.hide:  # control: fs.host-hidden
        argv += _mask(policy, hidden)
    argv += ["--remount-ro", "/", "--chdir", policy.files.workspace]  # control: fs.ro-root
    argv += ["--info-fd", descriptors.info_theirs]
    argv += ["--", machine.python, "-I", "-S", "-B", AGENT_PATH, "--fd", descriptors.agent_theirs]
    return [*argv, MARKER, name]


def _mask(policy: Policy, hidden: str) -> list[str]:
    """Return what masks a path inside: an empty directory or file; nothing where a read-only place lacks it anyway."""
    source, fixed = hidden, hidden.startswith("/usr/")
    for mount in sorted(policy.files.mounts, key=lambda item: len(item.target)):
        if hidden == mount.target or hidden.startswith(f"{mount.target}/"):
            source, fixed = mount.source + hidden[len(mount.target) :], True
    if os.path.isdir(source):  # noqa: PTH112  # one stat of a host path that the policy names
        return ["--size", "4096", "--perms", "0555", "--tmpfs", hidden, "--remount-ro", hidden]
    if fixed and not os.path.lexists(source):
        return []
    return ["--ro-bind", "/dev/null", hidden]


async def _first_pid(info: int) -> int | None:
    """Return the first process's pid on the host, which bubblewrap writes as JSON; None if it died before."""
    text = b""
    while len(text) < _INFO_LIMIT:
        try:
            piece = os.read(info, _INFO_LIMIT)
        except BlockingIOError:
            await anyio.wait_readable(info)
            continue
        text += piece
        if not piece:
            return None
        if text.rstrip().endswith(b"}"):
            return int(json.loads(text)["child-pid"])
    return None
