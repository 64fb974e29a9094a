"""The pure half of the driver: policy and probe report in, controls and launch data out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jubako._lib.levels import Enforcement
from jubako.boundary.card import common_controls
from jubako.boundary.contract import BoundaryKind, ControlResult, Plan
from jubako.drivers.runsc._bundle import private_mounts, root_arguments, writes_host
from jubako.jail.bubblewrap import check_expressible
from jubako.jail.resources import CGROUP_REMEDY, cgroup_reason, cpu_control, freeze_control, io_control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jubako.boundary.contract import ProbeReport
    from jubako.jail.resources import Facts
    from jubako.policy import Policy, SandboxSpec

__all__ = ["NAME", "make_plan"]

NAME: Final = "runsc"

_ENFORCED, _PARTIAL, _UNENFORCED = Enforcement.ENFORCED, Enforcement.PARTIAL, Enforcement.UNENFORCED

_SHARED: Final = (
    "the host kernel, only through the system calls that the sentry's own filter lets through",
    "the host's toolchain below /usr, read-only, through gVisor's file proxy",
    "CPU caches and other hardware side channels",
    "host facts that gVisor passes on: CPU model, number of CPUs, clock",
)


def make_plan(spec: SandboxSpec, report: ProbeReport) -> Plan:
    """Say how each control of ``spec`` is met by gVisor on the machine of ``report``.

    Raises:
        InvalidPolicyError: The policy asks for something that can't be expressed.
    """
    check_expressible(spec, NAME)
    policy, facts = spec.policy, report.facts
    return Plan(
        driver=NAME,
        boundary=BoundaryKind.GVISOR,
        spec=spec,
        controls=(
            *_file_controls(policy, facts),
            *_kernel_controls(facts),
            *_process_controls(facts),
            *_resource_controls(policy, facts),
            *_observation(policy, facts),
            *common_controls(policy, report.features, own=("observe.activity",)),
        ),
        features=report.features,
        payload={
            "jail": root_arguments(policy, facts),
            "mounts": private_mounts(policy),
            "masks": (),
            "shared": _SHARED,
        },
    )


def _file_controls(policy: Policy, facts: Facts) -> Iterator[ControlResult]:
    yield ControlResult("fs.host-hidden", _ENFORCED, "gVisor's own file system; its proxy sees the guest's root only")
    yield ControlResult("fs.ro-root", _ENFORCED, "root read-only in gVisor, read-only bind mounts behind it")
    yield _mounts_control(policy, facts)
    yield ControlResult("fs.workspace", _ENFORCED, "private tmpfs in gVisor's memory")
    yield ControlResult("fs.private-tmp", _ENFORCED, "private tmpfs on /tmp and /dev/shm in gVisor's memory")
    yield ControlResult("fs.devices", _ENFORCED, "gVisor's own /dev, without any device of the host")
    yield ControlResult("fs.proc", _ENFORCED, "gVisor's own /proc of the sandbox's processes; /sys is empty")
    yield ControlResult(
        "fs.second-wall", _ENFORCED, "bubblewrap: a mount namespace around gVisor, no host user's rights"
    )


def _mounts_control(policy: Policy, facts: Facts) -> ControlResult:
    mechanism = "bind mounts, nosuid and nodev, through gVisor's file proxy"
    if facts.get("user.drop") or not writes_host(policy):
        return ControlResult("fs.mounts", _ENFORCED, mechanism)
    return ControlResult(
        "fs.mounts",
        _PARTIAL,
        mechanism,
        "programs can change the files of a writable mount but make no new ones: one host user can't be two inside",
        "run as root, or mount it read-only",
    )


def _kernel_controls(facts: Facts) -> Iterator[ControlResult]:
    arch = facts.get("arch")
    yield ControlResult(
        "net.default-deny", _ENFORCED, "gVisor's network stack with only a loopback, in an empty network namespace"
    )
    yield ControlResult("net.sockets", _ENFORCED, "AF_UNIX, AF_INET and AF_INET6 only, by a filter inside gVisor")
    yield ControlResult(
        "syscall.allowlist",
        _ENFORCED,
        f"gVisor serves system calls itself behind a seccomp filter of its own; inside an allowlist for {arch}",
    )
    yield ControlResult("syscall.capabilities", _ENFORCED, "all capability sets empty from the first instruction")
    yield ControlResult("syscall.no-new-privileges", _ENFORCED, "no_new_privs inside and on the host")
    yield ControlResult("syscall.no-nested-namespaces", _ENFORCED, "filter on clone, clone3, unshare, setns inside")
    yield ControlResult("syscall.terminal-injection", _ENFORCED, "filter on TIOCSTI and TIOCLINUX; own session")


def _process_controls(facts: Facts) -> Iterator[ControlResult]:
    yield ControlResult("process.isolation", _ENFORCED, "gVisor's own process table")
    yield ControlResult("process.ipc", _ENFORCED, "gVisor's own IPC; ipc namespace around it")
    if facts.get("user.root") and not facts.get("user.drop"):
        yield ControlResult(
            "process.identity",
            _PARTIAL,
            "gVisor's own users, user namespace around it",
            "gVisor's processes belong to the host's root: no unprivileged host user to drop to",
            "apt-get install util-linux (setpriv)",
        )
    else:
        host = "a host user of its own" if facts.get("user.root") else "the caller's host user"
        yield ControlResult(
            "process.identity", _ENFORCED, f"gVisor's own users; user namespace run as {host}; fresh machine id"
        )
    yield ControlResult("process.environment", _ENFORCED, "cleared, then set from the policy")
    yield ControlResult(
        "process.descriptors", _ENFORCED, "gVisor holds all descriptors; only the agent's stream is passed"
    )
    yield ControlResult("process.kill-tree", _ENFORCED, "killing runsc ends the pid namespace with sentry and gofer")
    yield freeze_control(facts)


def _resource_controls(policy: Policy, facts: Facts) -> Iterator[ControlResult]:
    yield _memory_control(facts)
    yield _proven(
        facts,
        "processes",
        "resource.processes",
        "RLIMIT_NPROC in gVisor"
        + ("; the cgroup bounds the host's threads behind it" if facts.get("cgroup.processes") else ""),
        "it holds, but nothing tells which program ran into it",
    )
    yield cpu_control(facts)
    yield _proven(facts, "disk", "resource.disk", "size of each tmpfs; nothing else is writable")
    if facts.get("runsc.limit.inodes"):
        yield ControlResult("resource.inodes", _ENFORCED, "number of files of each tmpfs")
    else:
        yield ControlResult(
            "resource.inodes",
            _PARTIAL,
            "memory limit of the sandbox",
            "this gVisor does not limit the number of files; each takes some of the sandbox's memory",
            "use the process boundary where that matters",
        )
    yield _proven(facts, "open-files", "resource.open-files", "RLIMIT_NOFILE in gVisor")
    yield io_control(policy, facts)


def _memory_control(facts: Facts) -> ControlResult:
    version = facts.get("cgroup.memory")
    if version:
        swap = "swap included" if facts.get("cgroup.swap") else "swap is not counted"
        return ControlResult(
            "resource.memory",
            _PARTIAL,
            f"cgroup {version} around gVisor and all programs, {swap}",
            "memory beyond the limit ends the whole sandbox, not the one program that asked for it",
            "use the process boundary where that matters",
        )
    return ControlResult(
        "resource.memory",
        _PARTIAL,
        "address space limit per process",
        f"the sum over processes is not limited: {cgroup_reason(facts, 'memory')}",
        CGROUP_REMEDY,
    )


def _observation(policy: Policy, facts: Facts) -> Iterator[ControlResult]:
    if policy.observe.activity and facts.get("runsc.trace"):
        yield ControlResult(
            "observe.activity", _ENFORCED, "trace session of the sentry, gVisor's kernel; losses are counted"
        )
    elif policy.observe.activity:
        yield ControlResult(
            "observe.activity",
            _UNENFORCED,
            "none",
            "this gVisor has no trace sessions",
            "use a release of 2022-10 or later",
        )


def _proven(facts: Facts, limit: str, control: str, mechanism: str, reason: str = "") -> ControlResult:
    """Return a limit that gVisor's kernel holds, if the self-test saw it hold."""
    if facts.get(f"runsc.limit.{limit}"):
        return ControlResult(control, _ENFORCED, mechanism, reason)
    return ControlResult(
        control, _UNENFORCED, "none", "this gVisor did not hold the limit in the self-test", "use another release"
    )
