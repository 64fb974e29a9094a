"""Probes of process.*: other processes, IPC, identity, environment, descriptors, the end of a tree."""

from __future__ import annotations

from typing import Final

from jubako.probes.catalogue._ways import CALLER, HOST, POWERFUL, lacking
from jubako.probes.model import Outside, Place, Probe, Profile, Wall
from jubako.probes.profiles import TOOL_CALLS

__all__ = ["PROCESS"]

_FIRST: Final = Outside(place=Place.REFERENCE, stage="process/first_stage.py", first=True)
_LEAKY: Final = Outside(place=Place.HOST, leaky=True)


def _victim(name: str, title: str, program: str, **arguments: str) -> Probe:
    return Probe(
        name=name,
        control="process.isolation",
        title=title,
        program=f"process/{program}.py",
        arguments={"pid": "{victim}", **arguments},
        outside=HOST,
        witness="victim",
    )


def _agent(name: str, control: str, title: str, program: str, **arguments: str) -> Probe:
    return Probe(
        name=name,
        control=control,
        title=title,
        program=f"process/{program}.py",
        arguments=arguments,
        outside=_FIRST,
        alone=True,
        scenario="wreck",
    )


_OTHERS: Final = (
    _victim("signal", "Kill a process of the host", "signal_one"),
    _victim("trace", "Attach to a process of the host as a debugger", "trace"),
    _victim(
        "read-memory",
        "Read a host process's memory by call",
        "memory_of",
        way="vm",
        address="{victim_address}",
        mark="{mark}",
    ),
    _victim(
        "proc-memory",
        "Read a host process's memory by /proc",
        "memory_of",
        way="mem",
        address="{victim_address}",
        mark="{mark}",
    ),
    _victim("take-descriptor", "Take a descriptor of a host process", "steal_fd", way="pidfd", mark="{mark}"),
    _victim("proc-descriptor", "Open a host process's descriptors in /proc", "steal_fd", way="proc", mark="{mark}"),
    _victim("disturb", "Change a host process's priority, limits or affinity", "disturb"),
    _victim("command-lines", "Read the host's command lines", "scan", what="cmdline", mark="{mark}"),
    Probe(
        name="kill-all",
        control="process.isolation",
        title="Kill everything in reach",
        program="process/signal_all.py",
        outside=Outside(place=Place.REFERENCE, stage="process/crowd_stage.py", first=True),
        scenario="wreck",
        witness="victim",
        alone=True,
    ),
    Probe(
        name="kill-first",
        control="process.isolation",
        title="Kill the first process with every signal: only the own sandbox may end",
        program="process/signal_first.py",
        arguments={"pid": "1"},
        outside=Outside(place=Place.HOST, arguments={"pid": "{victim}"}),
        scenario="wreck",
        witness="victim",
        alone=True,
    ),
    _agent("agent-memory", "process.isolation", "Read the agent's memory", "memory_of", pid="1", way="mem"),
    _agent("agent-memory-call", "process.isolation", "Read the agent's memory by call", "memory_of", pid="1", way="vm"),
    _agent("agent-trace", "process.isolation", "Attach to the agent as a debugger", "trace", pid="1"),
)

_IPC: Final = (
    Probe(
        name="shared-memory",
        control="process.ipc",
        title="Attach to the host's System V shared memory",
        program="process/shared_memory.py",
        arguments={"key": "{shm_key}", "id": "{shm_id}", "mark": "{mark}"},
        outside=lacking(Wall.IPC),
    ),
    Probe(
        name="message-queue",
        control="process.ipc",
        title="Open the host's System V message queue",
        program="process/messages.py",
        arguments={"way": "queue", "key": "{msg_key}"},
        outside=lacking(Wall.IPC),
    ),
    Probe(
        name="semaphores",
        control="process.ipc",
        title="Open the host's System V semaphores",
        program="process/messages.py",
        arguments={"way": "semaphores", "key": "{sem_key}"},
        outside=lacking(Wall.IPC),
    ),
    Probe(
        name="posix-queue",
        control="process.ipc",
        title="Open the host's POSIX message queue",
        program="process/messages.py",
        arguments={"way": "posix", "name": "{mq_name}"},
        outside=lacking(Wall.IPC),
    ),
)

_IDENTITY: Final = (
    Probe(
        name="become-root",
        control="process.identity",
        title="Become root or join other groups",
        program="kernel/identity.py",
        arguments={"other": "0", "only": "uid,gid,groups"},
        outside=POWERFUL,
    ),
    Probe(
        name="become-other",
        control="process.identity",
        title="Become another user, or give files away",
        program="kernel/identity.py",
        arguments={"other": "12345", "only": "uid,gid,groups,chown"},
        outside=CALLER,
    ),
    Probe(
        name="host-names",
        control="process.identity",
        title="Learn the host's name and machine id",
        program="process/same_name.py",
        arguments={"hostname": "{hostname}", "machine": "{machine}"},
        outside=HOST,
    ),
    Probe(
        name="set-host-name",
        control="process.identity",
        title="Change the host name",
        program="kernel/hostname.py",
        outside=POWERFUL,
    ),
    Probe(
        name="host-user-namespace",
        control="process.identity",
        title="Live in the host's user namespace",
        program="process/real_user.py",
        arguments={"namespace": "{userns}", "boot": "{boot}"},
        outside=HOST,
    ),
    Probe(
        name="kernel-root",
        control="process.identity",
        title="Be root to the kernel",
        program="resource/heart.py",
        arguments={"path": "heart", "beats": "400", "tag": "{tag}"},
        outside=CALLER,
        scenario="kernel-user",
    ),
)

_INHERITED: Final = (
    Probe(
        name="secrets",
        control="process.environment",
        title="Find a secret in the environment",
        program="process/environment.py",
        arguments={"mark": "{mark}"},
        outside=_LEAKY,
    ),
    Probe(
        name="victim-environment",
        control="process.environment",
        title="Find a secret in the environment of a host process",
        program="process/scan.py",
        arguments={"what": "environ", "mark": "{mark}", "pid": "{victim}"},
        outside=HOST,
    ),
    Probe(
        name="open-files",
        control="process.descriptors",
        title="Find files that were open before the launch",
        program="process/descriptors.py",
        arguments={"mark": "{mark}"},
        outside=_LEAKY,
    ),
    Probe(
        name="terminal",
        control="process.descriptors",
        title="Reach the caller's terminal",
        program="process/terminal.py",
        outside=Outside(place=Place.HOST, stage="process/terminal_stage.py"),
    ),
    _agent("agent-descriptors", "process.descriptors", "See the agent's descriptors", "steal_fd", pid="1", way="proc"),
    _agent("agent-take", "process.descriptors", "Take the agent's descriptors", "steal_fd", pid="1", way="pidfd"),
    _agent("agent-rubbish", "process.descriptors", "Write rubbish frames into the agent's stream", "agent_stream"),
)

_ENDS: Final = (
    Probe(
        name="outlive",
        control="process.kill-tree",
        title="Outlive the sandbox as a daemon that ignores signals",
        program="resource/stubborn.py",
        arguments={"kind": "orphan", "path": "heart", "seconds": "4", "tag": "{tag}"},
        outside=HOST,
        scenario="outlive",
        alone=True,
    ),
    Probe(
        name="act-while-frozen",
        control="process.freeze",
        title="Go on while the sandbox is paused",
        program="resource/heart.py",
        arguments={"path": "heart", "beats": "400", "tag": "{tag}"},
        outside=HOST,
        scenario="freeze",
        alone=True,
    ),
)


def _tool(name: str, title: str, way: str) -> Probe:
    return Probe(
        name=name,
        control="tool.calls",
        title=title,
        program="process/call_tools.py",
        arguments={"way": way, "most": str(TOOL_CALLS)},
        outside=Outside(place=Place.HOST, stage="process/careless_tools_stage.py"),
        profile=Profile.TOOLS,
        alone=True,
    )


_TOOLS: Final = (
    _tool("ungranted", "Call host functions that were not granted", "others"),
    _tool("too-often", "Call a host function more often than granted", "often"),
    _tool("arguments", "Call a host function with arguments that don't fit", "arguments"),
)

PROCESS: Final = (*_OTHERS, *_IPC, *_IDENTITY, *_INHERITED, *_ENDS, *_TOOLS)
"""All probes of process.* and tool.*."""
