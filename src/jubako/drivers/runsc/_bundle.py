"""What a gVisor sandbox is made of: the jail around runsc, its flags, and the OCI bundle in it.

runsc itself runs inside a bubblewrap jail, as pid 1 of a pid namespace and as a host user that owns
nothing: whatever ends the jail ends runsc, gofer and sentry with it, its state and mounts vanish with
the mount namespace, and code that breaks out of the sentry finds a file system with nothing in it but
the guest's own root, and no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jubako.jail.bubblewrap import toolchain_arguments
from jubako.jail.leftovers import BUNDLE
from jubako.linux.cgroup import Limits

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from jubako.jail.resources import Facts
    from jubako.policy import Policy

__all__ = [
    "BUNDLE",
    "CAPABILITIES",
    "EMPTY",
    "IMAGE",
    "NAMESPACES",
    "NOBODY",
    "OWNERSHIP",
    "ROOT",
    "RUNSC",
    "STATE",
    "TRACE",
    "Mount",
    "container",
    "jail_place",
    "limits",
    "private_mounts",
    "root_arguments",
    "runsc_arguments",
    "tmpfs",
    "writes_host",
]

ROOT: Final = "/run/jubako/root"
"""Where the jail shows the guest's root directory to runsc."""
RUNSC: Final = "/run/jubako/runsc"
STATE: Final = "/run/jubako/state"
"""runsc's own records: in the memory of the jail, so that nothing of them outlives it."""
IMAGE: Final = "/run/jubako/image"
"""Where the jail shows runsc what to restore."""
TRACE: Final = "/run/jubako/trace.json"
EMPTY: Final = "/run/jubako/empty"
"""An empty file, which covers others."""
_MOUNTS: Final = "/run/jubako/mounts"
_MASKED: Final = ("/dev/fuse", "/proc/cmdline")
"""Files that gVisor makes up and nobody needs."""

Mount = dict[str, object]

CAPABILITIES: Final = ("CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP")
"""What runsc needs in the jail's user namespace to build the sentry's and the gofer's own namespaces."""

NAMESPACES: Final = (
    "--unshare-user",
    "--unshare-ipc",  # control: process.ipc
    "--unshare-pid",  # control: process.isolation, process.kill-tree
    "--unshare-net",  # control: net.default-deny
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--die-with-parent",
    "--as-pid-1",
    "--clearenv",  # control: process.environment
    "--uid",
    "0",
    "--gid",
    "0",
    *(word for name in CAPABILITIES for word in ("--cap-add", name)),
)

OWNERSHIP: Final = tuple(
    word for name in ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID") for word in ("--cap-add", name)
)
"""What the file proxy needs besides to make files of the guest's user; it counts for the jail's users only."""

NOBODY: Final = 65534
"""The user as whom gVisor restores a sentry."""

_KINDS: Final = ("bounding", "effective", "inheritable", "permitted", "ambient")

_OVERHEAD: Final = 96 * 1024 * 1024
"""Bytes that bubblewrap, runsc, gofer and sentry may take besides the programs; measured some 60 MiB."""
_THREADS_EACH: Final = 16
_THREADS_SPARE: Final = 512
"""Host threads of the sentry and gofer besides those that carry the guest's threads."""

_FLAGS: Final = (
    # Whether a version has it, its name, its value.
    ("network", "none"),  # control: net.default-deny
    ("host-uds", "none"),  # control: net.sockets - no unix socket of the host can be reached through a file
    ("host-fifo", "none"),
    ("net-raw", "false"),
    ("file-access", "exclusive"),  # the root does not change under a sandbox
    ("file-access-mounts", "shared"),  # what the policy mounts may
    ("overlay2", "none"),
    ("directfs", "false"),  # the sentry opens no host file by itself: the narrower of two system call filters
    ("watchdog-action", "panic"),  # a sentry that hangs ends, and is seen to
    ("ignore-cgroups", "true"),  # all of it is in the sandbox's group from the start
    ("panic-log", "/proc/self/fd/2"),
)


def runsc_arguments(known: Collection[str], platform: str, *, rootless: bool = True) -> tuple[str, ...]:
    """Return runsc with the global flags of every command on a sandbox; ``known`` are the flags of this version.

    ``rootless``: the jail has one host user only, so that gVisor's parts are the same one.
    """
    flags = [f"--{name}={value}" for name, value in _FLAGS if name in known]
    flags.append(f"--rootless={str(rootless).lower()}")
    return (RUNSC, f"--root={STATE}", f"--platform={platform}", *flags)


def limits(policy: Policy) -> Limits:
    """Return the limits of the sandbox's group, which holds sentry and gofer besides the programs.

    The policy's limit of processes holds inside; the group bounds the host's threads behind them.
    """
    wanted = policy.resources
    return Limits(
        memory=wanted.memory + _OVERHEAD,
        swap=wanted.swap,
        processes=wanted.processes * _THREADS_EACH + _THREADS_SPARE,
        cpus=wanted.cpus,
        io_bytes_per_second=wanted.io_bytes_per_second if policy.files.mounts else None,
    )


def tmpfs(path: str, size: int, mode: int, *options: str) -> Mount:
    """Return a private tmpfs inside, limited to ``size`` bytes."""
    wanted = ["nosuid", "nodev", f"size={size}", f"mode={mode:o}", *options]
    return {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": wanted}


def bind(source: str, target: str, access: str) -> Mount:
    """Return a file or directory of the jail's shown inside."""
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", "nosuid", "nodev", access]}


def private_mounts(policy: Policy) -> list[Mount]:
    """Return what is mounted inside besides the root: gVisor's own /proc, private places, the policy's paths."""
    files = policy.files
    mounts: list[Mount] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},  # control: fs.proc
        tmpfs("/sys", 4096, 0o555, "ro"),
        tmpfs("/dev/net", 4096, 0o555, "ro"),  # control: fs.devices - gVisor's own, but nobody needs them
        *(bind(EMPTY, path, "ro") for path in _MASKED),
    ]
    for number, mount in enumerate(files.mounts):  # control: fs.mounts
        mounts.append(bind(f"{_MOUNTS}/{number}", mount.target, mount.access))
    return [
        *mounts,
        tmpfs(files.workspace, files.workspace_size, 0o755, "uid=1000", "gid=1000"),  # control: fs.workspace
        tmpfs("/tmp", files.tmp_size, 0o1777),  # noqa: S108  # a path inside  # control: fs.private-tmp
        tmpfs("/dev/shm", files.tmp_size, 0o1777),  # noqa: S108  # a path inside
    ]


def writes_host(policy: Policy) -> bool:
    """Return whether programs may make files on the host."""
    return any(mount.access == "rw" for mount in policy.files.mounts)


def jail_place(policy: Policy, path: str) -> str:
    """Return where a path of the guest's is shown to runsc in the jail."""
    place = f"{ROOT}{path}"
    longest = 0
    for number, mount in enumerate(policy.files.mounts):
        below = path == mount.target or path.startswith(f"{mount.target}/")
        if below and len(mount.target) > longest:
            place, longest = f"{_MOUNTS}/{number}{path[len(mount.target) :]}", len(mount.target)
    return place


def root_arguments(policy: Policy, facts: Facts) -> tuple[str, ...]:
    """Return the part of bwrap's arguments that builds the guest's root and what the policy mounts, for runsc."""
    args = ["--perms", "0755", "--dir", "/run", "--perms", "0755", "--dir", "/run/jubako"]
    args += ["--perms", "0755", "--dir", ROOT, *toolchain_arguments(facts, ROOT)]
    # Mount points: the root is read-only to the sentry too.
    for path in ("/proc", "/sys", "/dev", "/tmp", policy.files.workspace):  # noqa: S108  # paths inside
        args += ["--perms", "0755", "--dir", f"{ROOT}{path}"]
    for number, mount in enumerate(policy.files.mounts):  # control: fs.mounts
        args += ["--ro-bind" if mount.access == "ro" else "--bind", mount.source, f"{_MOUNTS}/{number}"]
    args += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108  # the jail's
    return tuple(args)


def container(arguments: Sequence[str], mounts: Sequence[Mount], *, cwd: str, hostname: str) -> Mapping[str, object]:
    """Return the OCI configuration of one container."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 1000, "gid": 1000},  # control: process.identity
            "args": list(arguments),
            "env": ["PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"],
            "cwd": cwd,
            "noNewPrivileges": True,  # control: syscall.no-new-privileges
            # For the agent alone, to rename what is restored from a snapshot. It puts the capability away before
            # it serves, and no program gets it: the sets that programs are started with are empty.
            "capabilities": {**dict.fromkeys(_KINDS, ()), "permitted": ("CAP_SYS_ADMIN",)},
        },
        "root": {"path": ROOT, "readonly": True},  # control: fs.ro-root
        "hostname": hostname,
        "mounts": list(mounts),
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }
