"""The pure half of the jail: policy and facts in, controls and mount arguments out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jubako._lib.levels import Enforcement
from jubako.boundary.contract import ControlResult
from jubako.errors import InvalidPolicyError
from jubako.jail.bubblewrap.layout import RESERVED
from jubako.jail.resources import cpu_control, freeze_control, io_control, memory_control, processes_control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jubako.jail.resources import Facts
    from jubako.policy import Policy, SandboxSpec

__all__ = ["SHARED", "check_expressible", "jail_controls", "jail_payload", "toolchain_arguments"]

_ENFORCED, _PARTIAL, _UNENFORCED = Enforcement.ENFORCED, Enforcement.PARTIAL, Enforcement.UNENFORCED

SHARED: Final = (
    "the host kernel (through the allowed system calls)",
    "the host's toolchain below /usr, read-only",
    "CPU caches and other hardware side channels",
    "host facts in /proc such as uptime, load, memory size and CPU model",
)


def jail_controls(policy: Policy, facts: Facts) -> tuple[ControlResult, ...]:
    """Return how a bubblewrap jail meets each control on a machine with ``facts``, but for what the host holds."""
    return (
        *_file_controls(facts),
        *_kernel_controls(facts),
        *_process_controls(facts),
        *_resource_controls(policy, facts),
    )


def jail_payload(policy: Policy, facts: Facts) -> dict[str, object]:
    """Return what ``launch`` needs of a plan."""
    return {"mounts": _mount_arguments(policy, facts), "masks": _masks(facts), "shared": SHARED}


def check_expressible(spec: SandboxSpec, driver: str, *, options: bool = False) -> None:
    """Return if a jail can show what ``spec`` asks for.

    ``options`` says that the driver has options of its own and checks them itself. Raises
    InvalidPolicyError with the field.
    """
    if spec.template != "host":
        msg = f"template {spec.template!r} is not known to driver {driver}"
        raise InvalidPolicyError(
            msg,
            hint="this boundary shows the host's toolchain: template = 'host'",
            details={"field": "template"},
        )
    if not options and spec.policy.driver_options.get(driver):
        msg = f"driver {driver} has no options"
        raise InvalidPolicyError(
            msg,
            hint=f"remove driver_options.{driver}",
            details={"field": f"driver_options.{driver}"},
        )
    files = spec.policy.files
    _check_place("files.workspace", files.workspace, ())
    for mount in files.mounts:
        _check_place("files.mounts", mount.target, (files.workspace, "/tmp", "/dev/shm"))  # noqa: S108  # paths inside


def _check_place(field: str, path: str, private: tuple[str, ...]) -> None:
    """Refuse a path inside that is the sandbox's own, or that a private tmpfs would cover."""
    if path in RESERVED or path.startswith(("/usr/", "/proc/", "/sys/", "/dev/", "/etc/", "/run/jubako")):
        msg = f"{field}: {path} is the sandbox's own"
        raise InvalidPolicyError(
            msg, hint="choose a path such as /workspace, /data or /mnt/NAME", details={"field": field, "path": path}
        )
    covered = next((place for place in private if path == place or path.startswith(f"{place}/")), None)
    if covered is not None:
        msg = f"{field}: {path} lies below {covered}, which is private and empty at the start"
        raise InvalidPolicyError(
            msg, hint="choose a path outside it, such as /data", details={"field": field, "path": path}
        )


def _file_controls(facts: Facts) -> Iterator[ControlResult]:
    get = facts.get
    yield ControlResult("fs.host-hidden", _ENFORCED, "mount namespace built from an empty tmpfs")
    yield ControlResult("fs.ro-root", _ENFORCED, "read-only bind mounts, root remounted read-only")
    yield ControlResult("fs.mounts", _ENFORCED, "bind mounts, nosuid and nodev")
    yield ControlResult("fs.workspace", _ENFORCED, "private tmpfs in the mount namespace")
    yield ControlResult("fs.private-tmp", _ENFORCED, "private tmpfs on /tmp and /dev/shm")
    yield ControlResult("fs.devices", _ENFORCED, "private /dev with null, zero, full, random, urandom, tty, pts")
    yield ControlResult("fs.proc", _ENFORCED, "procfs of the own pid namespace, host entries masked, no sysfs")
    abi = int(get("landlock.abi") or 0)
    if abi > 0:
        yield ControlResult("fs.second-wall", _ENFORCED, f"Landlock ABI {abi}")
    else:
        yield ControlResult(
            "fs.second-wall",
            _UNENFORCED,
            "none",
            str(get("landlock.reason") or "this kernel has no Landlock"),
            "boot a kernel >= 5.13 with landlock in the lsm= list",
        )


def _kernel_controls(facts: Facts) -> Iterator[ControlResult]:
    arch = str(facts.get("arch"))
    yield ControlResult("net.default-deny", _ENFORCED, "network namespace with only its own loopback")
    yield ControlResult("net.sockets", _ENFORCED, "seccomp: AF_UNIX, AF_INET and AF_INET6 streams and datagrams only")
    yield ControlResult("syscall.allowlist", _ENFORCED, f"seccomp allowlist for {arch}")
    yield ControlResult("syscall.capabilities", _ENFORCED, "all capability sets emptied")
    yield ControlResult("syscall.no-new-privileges", _ENFORCED, "no_new_privs and nosuid mounts")
    yield ControlResult(
        "syscall.no-nested-namespaces", _ENFORCED, "seccomp on clone, clone3, unshare, setns; user namespaces used up"
    )
    yield ControlResult("syscall.terminal-injection", _ENFORCED, "seccomp on TIOCSTI and TIOCLINUX; own session")


def _process_controls(facts: Facts) -> Iterator[ControlResult]:
    get = facts.get
    yield ControlResult("process.isolation", _ENFORCED, "pid namespace")
    yield ControlResult("process.ipc", _ENFORCED, "ipc namespace")
    if get("user.root") and not get("user.drop"):
        yield ControlResult(
            "process.identity",
            _PARTIAL,
            "user and uts namespaces",
            "files of the host's root stay readable through shared paths: no unprivileged host user to drop to",
            "apt-get install util-linux (setpriv)",
        )
    else:
        host = "a host user of its own" if get("user.root") else "the caller's host user"
        yield ControlResult("process.identity", _ENFORCED, f"user and uts namespaces, run as {host}, fresh machine id")
    yield ControlResult("process.environment", _ENFORCED, "cleared, then set from the policy")
    yield ControlResult("process.descriptors", _ENFORCED, "all closed but the agent's stream")
    yield ControlResult("process.kill-tree", _ENFORCED, "killing pid 1 ends the pid namespace")
    yield freeze_control(facts)


def _resource_controls(policy: Policy, facts: Facts) -> Iterator[ControlResult]:
    yield memory_control(
        facts, "data size and address space limits per process", "the sum over processes is not limited"
    )
    yield processes_control(facts)
    yield cpu_control(facts)
    yield ControlResult("resource.disk", _ENFORCED, "size of each tmpfs; nothing else is writable")
    yield ControlResult("resource.inodes", _ENFORCED, "nr_inodes of each tmpfs; nothing else is writable")
    yield ControlResult("resource.open-files", _ENFORCED, "RLIMIT_NOFILE")
    yield io_control(policy, facts)


def _mount_arguments(policy: Policy, facts: Facts) -> tuple[str, ...]:
    """Return the part of bwrap's argument vector that builds the guest's file system, in order.

    Later entries cover earlier ones, so the toolchain comes first, then what the policy adds, then the
    writable places, and at last the root is made read-only. The agent puts up what costs bubblewrap
    most: masks of /proc, some 0.07 ms each.
    """
    args = toolchain_arguments(facts)
    args += ["--proc", "/proc", "--dev", "/dev"]  # control: fs.proc, fs.devices
    for mount in policy.files.mounts:  # control: fs.mounts
        args += ["--ro-bind" if mount.access == "ro" else "--bind", mount.source, mount.target]
    # Mount points only: the agent mounts the sized tmpfs itself, as bubblewrap can't limit inodes.
    for path, mode in ((policy.files.workspace, "0755"), ("/tmp", "1777")):  # noqa: S108  # paths inside
        args += ["--perms", mode, "--dir", path]
    args += ["--remount-ro", "/dev"]  # control: resource.disk - else /dev is a tmpfs without a limit
    return tuple(args)


def toolchain_arguments(facts: Facts, root: str = "") -> list[str]:
    """Return what shows the host's toolchain and the harmless entries of its /etc, read-only, below ``root``."""
    args = ["--ro-bind", "/usr", f"{root}/usr"]  # control: fs.ro-root
    for entry in str(facts.get("root.links") or "").split():
        name, _, target = entry.partition("=")
        args += ["--symlink", target, f"{root}/{name}"] if target else ["--ro-bind", f"/{name}", f"{root}/{name}"]
    args += ["--perms", "0755", "--dir", f"{root}/etc"]
    for name in str(facts.get("root.etc") or "").split():
        args += ["--ro-bind", f"/etc/{name}", f"{root}/etc/{name}"]
    return args


def _masks(facts: Facts) -> tuple[tuple[str, bool], ...]:
    """Return what the agent covers, each with whether it is a directory."""  # control: fs.proc
    entries = (entry.partition("=") for entry in str(facts.get("root.proc-masks") or "").split())
    return tuple((f"/proc/{name}", kind == "dir") for name, _, kind in entries)
