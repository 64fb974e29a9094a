"""Start runsc in its jail with the agent as the container's first process.

The group comes first, so that runsc and everything that it starts is in it from the first
instruction. Then bubblewrap builds the jail, runsc builds sentry and gofer in it and starts the
agent, whose stream is the container's stdin.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import anyio

from jubako.drivers.runsc._bundle import (
    BUNDLE,
    EMPTY,
    IMAGE,
    NAMESPACES,
    NOBODY,
    OWNERSHIP,
    ROOT,
    RUNSC,
    STATE,
    TRACE,
    Mount,
    container,
    jail_place,
    limits,
    runsc_arguments,
    writes_host,
)
from jubako.jail.bubblewrap import AGENT_PATH, Descriptors, Launched, made_up_files, mask_arguments, start_jail
from jubako.jail.group import LaunchGroup
from jubako.jail.names import sandbox_id
from jubako.jail.users import drop_prefix, random_uid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anyio.abc import TaskGroup

    from jubako.boundary.contract import Plan
    from jubako.drivers.runsc._probe import RunscMachine
    from jubako.drivers.runsc.trace import TraceSession
    from jubako.policy import Policy

__all__ = ["Start", "agent_arguments", "launch"]


@dataclass(frozen=True, slots=True)
class Start:
    """How a container begins.

    Attributes:
        machine_id: The sandbox's own.
        image: The files of what it goes on from; none: it begins afresh.
        trace: Where the sentry tells what programs do.
        group: The group of the sandbox that it goes on from in the same place.
    """

    machine_id: str
    image: tuple[Path, ...] = ()
    trace: TraceSession | None = None
    group: LaunchGroup | None = None


def agent_arguments(machine: RunscMachine) -> tuple[str, ...]:
    """Return the container's first program: the agent on its stdin."""
    return (machine.python, "-I", "-S", "-B", AGENT_PATH, "--fd", "0")


async def launch(
    plan: Plan,
    machine: RunscMachine,
    tasks: TaskGroup,
    *,
    name: str,
    agent: bytes,
    start: Start,
) -> Launched:
    """Build the walls and return with runsc at work in them.

    Args:
        plan: What to build.
        machine: The probe's findings.
        tasks: Where the group is watched over meanwhile, and the output collected.
        name: The sandbox's full name (``jail.names``), also the cgroup's and the container's.
        agent: The agent's code for the guest's interpreter.
        start: How the container begins.

    Raises:
        LaunchError: With what bubblewrap said; nothing is left.
    """
    group = start.group
    if group is None:
        group = LaunchGroup(machine.cgroups, machine.groups, limits(plan.spec.policy), name)
        await group.make_first()
    descriptors = Descriptors()
    try:
        argv = _arguments(plan, machine, descriptors, agent=agent, name=name, start=start)
        argv += ["--info-fd", descriptors.info_theirs]
        command = list(runsc_arguments(machine.flags, machine.platform, rootless=not start.image))
        if start.trace is not None:  # control: observe.activity
            # By descriptor: the jail's user can't reach the socket's directory, and the jail has no place for it.
            config = start.trace.config(f"/proc/self/fd/{descriptors.reference(str(start.trace.path))}")
            argv += ["--perms", "0444", "--file", descriptors.content(config), TRACE]
            command.append(f"--pod-init-config={TRACE}")
        command += _image_arguments(start.image, descriptors, argv)
        argv += ["--", *command, "--bundle", BUNDLE, name]
    except BaseException:
        descriptors.close()
        with anyio.CancelScope(shield=True):
            await group.remove()
        raise
    launched = await start_jail(argv, descriptors, group, tasks, name=name, on_stdin=True)
    tasks.start_soon(launched.monitor.pump_stderr)
    return launched


def _image_arguments(image: Sequence[Path], descriptors: Descriptors, argv: list[str]) -> list[str]:
    """Return runsc's command; for an image, show its files in the jail as links to descriptors."""
    if not image:
        return ["run"]
    argv += ["--perms", "0755", "--dir", IMAGE]
    for path in image:
        argv += ["--symlink", f"/proc/self/fd/{descriptors.reference(str(path))}", f"{IMAGE}/{path.name}"]
    return ["restore", "--image-path", IMAGE]


def _user_arguments(policy: Policy, machine: RunscMachine, descriptors: Descriptors, *, restored: bool) -> list[str]:
    """Return bubblewrap with its namespaces, as host users of the sandbox's own."""
    if not machine.drop:
        return [machine.bwrap, *NAMESPACES]
    users = [(0, random_uid())]
    argv = [*drop_prefix(machine.drop[0], users[0][1]), machine.bwrap, *NAMESPACES]
    if writes_host(policy):  # control: fs.mounts
        # New files have to belong to the guest's user, whom the file proxy must know besides its own.
        users.append((1000, random_uid()))
        argv += OWNERSHIP
    if restored:
        # gVisor restores only where it can make its sentry another user.
        users.append((NOBODY, random_uid()))
    if len(users) > 1:
        argv += ["--userns-block-fd", descriptors.map_users(users)]
    return argv


def _arguments(
    plan: Plan, machine: RunscMachine, descriptors: Descriptors, *, agent: bytes, name: str, start: Start
) -> list[str]:
    """Return bubblewrap's arguments that build the jail; order matters to it."""
    policy = plan.spec.policy
    argv = _user_arguments(policy, machine, descriptors, restored=bool(start.image))
    argv += cast("Sequence[str]", plan.payload["jail"])
    argv += made_up_files(policy, descriptors, agent=agent, name=name, root=ROOT, machine_id=start.machine_id)
    for hidden in policy.files.hide:  # control: fs.host-hidden
        argv += mask_arguments(policy, hidden, jail_place(policy, hidden))
    config = container(
        agent_arguments(machine),
        cast("Sequence[Mount]", plan.payload["mounts"]),
        cwd=policy.files.workspace,
        hostname=sandbox_id(name),
    )
    content = descriptors.content(json.dumps(config).encode())
    argv += ["--perms", "0444", "--file", descriptors.content(b""), EMPTY]
    argv += ["--perms", "0755", "--dir", BUNDLE, "--perms", "0444", "--file", content, f"{BUNDLE}/config.json"]
    return [*argv, "--ro-bind", machine.runsc, RUNSC, "--tmpfs", STATE, "--chdir", "/"]
