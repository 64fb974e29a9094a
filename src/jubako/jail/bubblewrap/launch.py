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
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
from anyio import to_thread

from jubako.errors import JubakoError, LaunchError
from jubako.guest import tools_module
from jubako.jail.bubblewrap.layout import ETC_FILES, LIBRARY
from jubako.jail.group import LaunchGroup, limits_of
from jubako.jail.leftovers import MARKER, remove_processes
from jubako.jail.names import sandbox_id
from jubako.jail.users import drop_prefix, random_uid
from jubako.linux.procinfo import parent_pid
from jubako.linux.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyio.abc import TaskGroup

    from jubako.boundary.contract import Plan
    from jubako.jail.bubblewrap.probe import Machine
    from jubako.linux.cgroup import Cgroup
    from jubako.linux.spawn import Child
    from jubako.policy import Policy

__all__ = [
    "AGENT_PATH",
    "OWN_DIRECTORY",
    "Descriptors",
    "Fittings",
    "Launched",
    "launch",
    "made_up_files",
    "mask_arguments",
    "start_jail",
]

OWN_DIRECTORY: Final = "/run/jubako"
"""Where the sandbox's own machinery lies inside, read-only."""
AGENT_PATH: Final = f"{OWN_DIRECTORY}/agent.pyc"
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


@dataclass(frozen=True, slots=True)
class Fittings:
    """What a driver puts into its jails beside what every jail has; names are below ``OWN_DIRECTORY``.

    Attributes:
        binds: Host files by name, shown read-only; the jailed user must be able to reach them.
        files: Contents by name.
        processes: Processes and threads of the whole sandbox, where that is not the policy's number.
    """

    binds: Mapping[str, str] = field(default_factory=dict[str, str])
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    processes: int | None = None


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

    async def retire(self) -> None:
        """Free what is left of a sandbox that has ended by itself, but its group, in which another goes on."""
        await self.monitor.wait()
        await anyio.wait_readable(self.pidfd)
        await self.monitor.aclose()
        os.close(self.pidfd)
        self.stream.close()

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


class Descriptors:
    """Descriptors of one launch: ours to keep, theirs to pass on and close as soon as they are passed."""

    def __init__(self) -> None:
        self.theirs: list[int] = []
        self.agent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.agent.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self.agent_theirs = self._pass(theirs.detach())
        self.info, info_theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.info_theirs = self._pass(info_theirs)
        self._users: tuple[tuple[int, int], ...] = ()
        self._mapped = -1

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

    def reference(self, path: str) -> str:
        """Return a descriptor that leads whoever inherits it to ``path``, through ``/proc/self/fd``, and no further."""
        return self._pass(os.open(path, os.O_PATH | os.O_CLOEXEC))

    def map_users(self, users: Sequence[tuple[int, int]]) -> str:
        """Have ``users`` (inside, on the host) in the jail; return the descriptor that bubblewrap waits on for that.

        Needs root: others can map only themselves.
        """
        self._users = tuple(users)
        theirs, self._mapped = os.pipe2(os.O_CLOEXEC)
        return self._pass(theirs)

    def write_maps(self, pid: int) -> None:
        """Give the first process the users of ``map_users``, if any, and let it go on. Raises OSError."""
        if self._users:
            text = "".join(f"{inside} {outside} 1\n" for inside, outside in self._users)
            for name in ("uid_map", "gid_map"):  # control: process.identity
                Path(f"/proc/{pid}/{name}").write_text(text, encoding="ascii")
            os.write(self._mapped, b"1")

    def close_theirs(self) -> None:
        """Close what the child has by now."""
        while self.theirs:
            os.close(self.theirs.pop())

    def close_info(self) -> None:
        """Close the pipes between bubblewrap and us."""
        if self.info >= 0:
            os.close(self.info)
            self.info = -1
        if self._mapped >= 0:
            os.close(self._mapped)
            self._mapped = -1

    def close(self) -> None:
        """Close everything; what is closed already stays so."""
        self.close_theirs()
        self.close_info()
        self.agent.close()


async def launch(
    plan: Plan, machine: Machine, tasks: TaskGroup, *, name: str, agent: bytes, fittings: Fittings
) -> Launched:
    """Build the walls and return with the first process running inside.

    Args:
        plan: What to build.
        machine: The probe's findings: paths, cgroups, how to leave root.
        tasks: Where the cgroup is made meanwhile.
        name: the sandbox's full name (``jail.names``), also the cgroup's; the id is the host name inside.
        agent: The agent's code for the guest's interpreter.
        fittings: What the driver adds.

    Raises:
        LaunchError: With what bubblewrap said; nothing is left.
    """
    descriptors = Descriptors()
    limits = limits_of(plan)
    if fittings.processes is not None:
        limits = replace(limits, processes=fittings.processes)
    group = LaunchGroup(machine.cgroups, machine.groups, limits, name)
    try:
        argv = _arguments(plan, machine, descriptors, agent=agent, name=name, fittings=fittings)
    except BaseException:
        descriptors.close()
        raise
    return await start_jail(argv, descriptors, group, tasks, name=name)


async def start_jail(
    argv: Sequence[str],
    descriptors: Descriptors,
    group: LaunchGroup,
    tasks: TaskGroup,
    *,
    name: str,
    on_stdin: bool = False,
) -> Launched:
    """Start bubblewrap with ``argv`` and return once its first process exists.

    Args:
        argv: bubblewrap with all its arguments, which name ``descriptors``.
        descriptors: Of this launch; closed but for the stream, also on failure.
        group: Where the sandbox goes.
        tasks: Where the cgroup is made meanwhile.
        name: The sandbox's full name, which ends ``argv``.
        on_stdin: The stream is the first process's stdin, and its stdout is collected with its stderr.

    Raises:
        LaunchError: With what bubblewrap said; nothing is left.
    """
    child: Child | None = None
    try:
        # control: process.descriptors - everything else is close-on-exec, and closed by Popen besides
        child = spawn(
            [*group.prefix, *argv],
            pass_fds=tuple(descriptors.theirs),
            env=group.environment,
            cwd="/",
            stdin=int(descriptors.agent_theirs) if on_stdin else subprocess.DEVNULL,
            stdout=subprocess.STDOUT if on_stdin else subprocess.DEVNULL,
        )
        descriptors.close_theirs()
        tasks.start_soon(group.make, child.pid)
        with anyio.fail_after(_START_SECONDS):
            pid = await _first_pid(descriptors.info)
        if pid is None:
            said = child.stderr_text() or f"exit status {await child.wait()}"
            msg = f"bubblewrap ended before the sandbox stood: {said}"
            raise LaunchError(msg, hint="jubako doctor says what this machine allows")  # noqa: TRY301  # undone below
        pidfd = _pidfd_of_child(pid, child)
        descriptors.write_maps(pid)
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
        descriptors.close_info()


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


def _arguments(
    plan: Plan, machine: Machine, descriptors: Descriptors, *, agent: bytes, name: str, fittings: Fittings
) -> list[str]:
    """Return the whole argument vector; order matters to bubblewrap."""
    policy = plan.spec.policy
    argv = list(drop_prefix(machine.drop[0], random_uid())) if machine.drop else []
    argv += [machine.bwrap, *_NAMESPACES, "--hostname", sandbox_id(name)]
    argv += [str(item) for item in cast("Sequence[object]", plan.payload["mounts"])]
    argv += made_up_files(policy, descriptors, agent=agent, name=name)
    for file, data in fittings.files.items():
        argv += ["--perms", "0444", "--file", descriptors.content(data), f"{OWN_DIRECTORY}/{file}"]
    for file, source in fittings.binds.items():
        argv += ["--ro-bind", source, f"{OWN_DIRECTORY}/{file}"]
    for hidden in policy.files.hide:  # control: fs.host-hidden
        argv += mask_arguments(policy, hidden)
    argv += ["--remount-ro", "/", "--chdir", policy.files.workspace]  # control: fs.ro-root
    argv += ["--info-fd", descriptors.info_theirs]
    argv += ["--", machine.python, "-I", "-S", "-B", AGENT_PATH, "--fd", descriptors.agent_theirs]
    return [*argv, MARKER, name]


def made_up_files(
    policy: Policy, descriptors: Descriptors, *, agent: bytes, name: str, root: str = "", machine_id: str = ""
) -> list[str]:
    """Return what puts the files of ``/etc`` that belong to this sandbox, and the agent, below ``root``."""
    machine_id = machine_id or secrets.token_hex(16)
    filled = {"hostname": sandbox_id(name), "machine_id": machine_id, "home": policy.files.workspace}
    argv: list[str] = []
    for file, text in ETC_FILES.items():
        content = descriptors.content(text.format(**filled).encode())
        argv += ["--perms", "0444", "--file", content, f"{root}/etc/{file}"]
    argv += ["--perms", "0755", "--dir", f"{root}/run", "--perms", "0755", "--dir", f"{root}{OWN_DIRECTORY}"]
    if policy.tools:
        module = descriptors.content(tools_module())
        argv += ["--perms", "0755", "--dir", f"{root}{LIBRARY}"]
        argv += ["--perms", "0444", "--file", module, f"{root}{LIBRARY}/jubako_tools.py"]
    return [*argv, "--perms", "0444", "--file", descriptors.content(agent), f"{root}{AGENT_PATH}"]


def mask_arguments(policy: Policy, hidden: str, place: str | None = None) -> list[str]:
    """Return what masks a path inside: an empty directory or file; nothing where a read-only place lacks it anyway.

    ``place`` is where the path is while the jail is built, if not where the guest sees it.
    """
    place = place or hidden
    source, fixed = hidden, hidden.startswith("/usr/")
    for mount in sorted(policy.files.mounts, key=lambda item: len(item.target)):
        if hidden == mount.target or hidden.startswith(f"{mount.target}/"):
            source, fixed = mount.source + hidden[len(mount.target) :], True
    if os.path.isdir(source):  # noqa: PTH112  # one stat of a host path that the policy names
        return ["--size", "4096", "--perms", "0555", "--tmpfs", place, "--remount-ro", place]
    if fixed and not os.path.lexists(source):
        return []
    return ["--ro-bind", "/dev/null", place]


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
