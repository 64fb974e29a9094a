"""The catalogue of controls: every enforceable clause of a policy under a stable id.

``default`` is the level that a launch requires when the policy says nothing else. Resource controls
that an ordinary user's machine often can meet only per process (no delegated cgroup) ask for
``partial``; the card shows which one it is. A policy may ask for more (``require``) or, with a
written reason, for less (``relaxations``).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako._lib.levels import Requirement

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CONTROLS", "Control"]


@dataclass(frozen=True, slots=True)
class Control:
    """One enforceable clause: its id, one-line title, the level a launch requires, what it stops."""

    id: str
    title: str
    default: Requirement
    stops: str


_ENFORCED = Requirement.ENFORCED
_PARTIAL = Requirement.PARTIAL
_OPTIONAL = Requirement.OPTIONAL

_ALL = (
    Control("fs.host-hidden", "Only listed host paths exist inside", _ENFORCED, "reading the host's files"),
    Control("fs.ro-root", "The root file system is read-only", _ENFORCED, "changing the host's toolchain"),
    Control("fs.mounts", "Extra host paths appear exactly as listed", _ENFORCED, "wider access than granted"),
    Control("fs.workspace", "A private writable workspace", _ENFORCED, "reading or writing a neighbour's work"),
    Control("fs.private-tmp", "A private /tmp and /dev/shm", _ENFORCED, "leaks through shared temporary files"),
    Control("fs.devices", "Only harmless device nodes", _ENFORCED, "raw disks, memory, terminals"),
    Control("fs.proc", "A private, masked /proc; no /sys", _ENFORCED, "reading host state, writing kernel knobs"),
    Control("fs.second-wall", "A second wall around files", _OPTIONAL, "a mistake in the first wall"),
    Control("net.default-deny", "No network but the sandbox's own loopback", _ENFORCED, "any byte in or out"),
    Control("net.sockets", "Only common socket families", _ENFORCED, "vsock, netlink, packet, kernel crypto sockets"),
    Control("syscall.allowlist", "Only listed system calls", _ENFORCED, "most of the kernel's attack surface"),
    Control("syscall.capabilities", "No capabilities", _ENFORCED, "mounts, raw devices, other privileged acts"),
    Control("syscall.no-new-privileges", "setuid and file capabilities are void", _ENFORCED, "privilege gain by exec"),
    Control("syscall.no-nested-namespaces", "No namespaces made inside", _ENFORCED, "kernel bugs behind namespaces"),
    Control("syscall.terminal-injection", "No typing into a terminal", _ENFORCED, "TIOCSTI and TIOCLINUX"),
    Control("process.isolation", "Other processes are invisible", _ENFORCED, "signals, ptrace, /proc of the host"),
    Control("process.ipc", "Private System V and POSIX IPC", _ENFORCED, "shared memory with the host"),
    Control("process.identity", "Own unprivileged user, host name and machine id", _ENFORCED, "acting as a host user"),
    Control("process.environment", "No inherited environment", _ENFORCED, "secrets in variables"),
    Control("process.descriptors", "No inherited descriptors", _ENFORCED, "open files and sockets of the host"),
    Control("process.kill-tree", "Ended as a whole", _ENFORCED, "processes that outlive the sandbox"),
    Control("process.freeze", "Frozen as a whole", _OPTIONAL, "acts during a pause"),
    Control("resource.memory", "Memory limit, swap included", _PARTIAL, "memory bombs"),
    Control("resource.processes", "Process limit", _ENFORCED, "fork bombs"),
    Control("resource.cpu", "CPU limit", _PARTIAL, "starving the machine"),
    Control("resource.disk", "Size limit on every writable place", _ENFORCED, "filling the disk"),
    Control("resource.inodes", "Limit on the number of files", _PARTIAL, "filling kernel memory with empty files"),
    Control("resource.open-files", "Limit on open descriptors", _ENFORCED, "descriptor floods"),
    Control("resource.io", "Disk bandwidth limit", _PARTIAL, "starving the disk"),
    Control("resource.output", "Output limit", _ENFORCED, "output floods"),
    Control("time.exec", "Time limit per program", _ENFORCED, "endless loops"),
    Control("time.sandbox", "Time to live of the sandbox", _ENFORCED, "forgotten sandboxes"),
    Control("tool.calls", "Only granted host functions, within budgets", _ENFORCED, "acting through the host unasked"),
    Control("observe.activity", "Acts of programs are recorded from outside", _ENFORCED, "acting unseen"),
    Control("secret.broker", "Secrets stay outside", _ENFORCED, "stealing credentials"),
    Control("data.labels", "Labelled data stays where it may be", _ENFORCED, "data crossing its boundary"),
)

CONTROLS: Final[Mapping[str, Control]] = MappingProxyType({control.id: control for control in _ALL})
"""Every control by id, in the order in which cards list them."""
