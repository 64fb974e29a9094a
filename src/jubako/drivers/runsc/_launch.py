"""Start runsc in its jail with the agent as the container's first process.

The group comes first, so that runsc and everything that it starts is in it from the first
instruction. Then bubblewrap builds the jail, runsc builds sentry and gofer in it and starts the
agent, whose stream is the container's stdin.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, cast

import anyio

from jubako.drivers.runsc._bundle import (
    BUNDLE,
    EMPTY,
    NAMESPACES,
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

    from anyio.abc import TaskGroup

    from jubako.boundary.contract import Plan
    from jubako.drivers.runsc._probe import RunscMachine
    from jubako.drivers.runsc.trace import TraceSession

__all__ = ["agent_arguments", "launch"]

_RUN: Final = ("run",)


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
    command: Sequence[str] = _RUN,
    trace: TraceSession | None = None,
) -> Launched:
    """Build the walls and return with runsc at work in them.

    Args:
        plan: What to build.
        machine: The probe's findings.
        tasks: Where the group is watched over meanwhile, and the output collected.
        name: The sandbox's full name (``jail.names``), also the cgroup's and the container's.
        agent: The agent's code for the guest's interpreter.
        command: runsc's command with its own flags; the bundle and the name are added.
        trace: Where the sentry tells what programs do.

    Raises:
        LaunchError: With what bubblewrap said; nothing is left.
    """
    group = LaunchGroup(machine.cgroups, machine.groups, limits(plan.spec.policy), name)
    await group.make_first()
    descriptors = Descriptors()
    try:
        argv = _arguments(plan, machine, descriptors, agent=agent, name=name)
        flags: list[str] = []
        if trace is not None:  # control: observe.activity
            # By descriptor: the jail's user can't reach the socket's directory, and the jail has no place for it.
            config = trace.config(f"/proc/self/fd/{descriptors.reference(str(trace.path))}")
            argv[-1:] = ["--perms", "0444", "--file", descriptors.content(config), TRACE, argv[-1]]
            flags = [f"--pod-init-config={TRACE}"]
        runsc = runsc_arguments(machine.flags, machine.platform)
        argv += [*runsc, *flags, *command, "--bundle", BUNDLE, name]
    except BaseException:
        descriptors.close()
        with anyio.CancelScope(shield=True):
            await group.remove()
        raise
    launched = await start_jail(argv, descriptors, group, tasks, name=name, on_stdin=True)
    tasks.start_soon(launched.monitor.pump_stderr)
    return launched


def _arguments(plan: Plan, machine: RunscMachine, descriptors: Descriptors, *, agent: bytes, name: str) -> list[str]:
    """Return bubblewrap's arguments up to the program; order matters to it."""
    policy = plan.spec.policy
    uid = random_uid()
    argv = list(drop_prefix(machine.drop[0], uid)) if machine.drop else []
    argv += [machine.bwrap, *NAMESPACES]
    if machine.drop and writes_host(policy):  # control: fs.mounts
        # New files have to belong to the guest's user, whom the file proxy must know besides its own.
        argv += ["--userns-block-fd", descriptors.map_users(((0, uid), (1000, random_uid()))), *OWNERSHIP]
    argv += cast("Sequence[str]", plan.payload["jail"])
    argv += made_up_files(policy, descriptors, agent=agent, name=name, root=ROOT)
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
    argv += ["--ro-bind", machine.runsc, RUNSC, "--tmpfs", STATE, "--chdir", "/"]
    return [*argv, "--info-fd", descriptors.info_theirs, "--"]
