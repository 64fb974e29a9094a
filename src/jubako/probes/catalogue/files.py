"""Probes of fs.*: files of the host and of neighbours, devices, /proc and /sys."""

from __future__ import annotations

from typing import Final

from jubako.probes.catalogue._ways import BARE, CALLER, HOST, POWERFUL, lacking
from jubako.probes.ground import MACHINE_STATE
from jubako.probes.model import Outside, Place, Probe, Wall

__all__ = ["FILES"]


def _marked(name: str, title: str, path: str) -> Probe:
    return Probe(
        name=name,
        control="fs.host-hidden",
        title=title,
        program="files/read_path.py",
        arguments={"paths": path, "mark": "{mark}"},
        outside=CALLER,
    )


def _neighbour(control: str, where: str, path: str, wall: Wall) -> Probe:
    return Probe(
        name=f"neighbour-{where}",
        control=control,
        title=f"Read a file in a neighbour sandbox's {path.rpartition('/')[0]}",
        program="files/read_path.py",
        arguments={"paths": path, "mark": "{mark}"},
        outside=lacking(wall, paths="{shm}" if wall is Wall.SHM else path),
    )


def _write(name: str, title: str, paths: str, outside_paths: str, program: str = "files/write_dirs.py") -> Probe:
    return Probe(
        name=name,
        control="fs.ro-root",
        title=title,
        program=program,
        arguments={"paths": paths},
        outside=lacking(Wall.ROOT, paths=outside_paths),
    )


def _race(name: str, title: str, how: str) -> Probe:
    return Probe(
        name=name,
        control="fs.workspace",
        title=title,
        program="files/swap.py",
        arguments={"how": how, "name": "door", "file": "file", "target": "{race}", "seconds": "0.7"},
        outside=HOST,
        scenario="race",
        alone=True,
    )


def _open(name: str, control: str, title: str, paths: str, *, mode: str = "r", outside: Outside = CALLER) -> Probe:
    return Probe(
        name=name,
        control=control,
        title=title,
        program="files/open_paths.py",
        arguments={"paths": paths, "mode": mode},
        outside=outside,
    )


_HIDDEN: Final = (
    _marked("temporary-file", "Read a file in the host's /tmp", "{secret}"),
    _marked("home-file", "Read a file in the caller's home directory", "{home}"),
    _marked("var-file", "Read a file in the host's /var/tmp", "{var}"),
    _marked("state-file", "Read jubako's own records", "{state}"),
    Probe(
        name="shadow",
        control="fs.host-hidden",
        title="Read the host's password hashes",
        program="files/read_path.py",
        arguments={"paths": "/etc/shadow,/etc/gshadow,/etc/sudoers", "mark": ""},
        outside=CALLER,
    ),
    Probe(
        name="listing",
        control="fs.host-hidden",
        title="List directories that only the host has",
        program="files/read_path.py",
        arguments={"paths": "{base},/root,/home,/var/lib,/var/log,/boot,/srv,/media", "mark": ""},
        outside=CALLER,
    ),
    Probe(
        name="path-tricks",
        control="fs.host-hidden",
        title="Reach a host file by .., links, descriptors and /proc/PID/root",
        program="files/path_tricks.py",
        arguments={"path": "{secret}", "mark": "{mark}"},
        outside=CALLER,
    ),
    Probe(
        name="file-handle",
        control="fs.host-hidden",
        title="Open a host file by its file-system handle",
        program="files/by_handle.py",
        arguments={
            "handle": "{handle}",
            "type": "{handle_type}",
            "mark": "{mark}",
            "anchors": "/,/usr,/mnt/granted,/mnt/granted/file,/workspace",
        },
        outside=Outside(place=Place.CALLER, arguments={"anchors": "{base}"}),
    ),
    Probe(
        name="hidden-path",
        control="fs.host-hidden",
        title="Read a file below a path that the policy hides",
        program="files/read_path.py",
        arguments={"paths": "/mnt/granted/hidden/file", "mark": "{mark}"},
        outside=lacking(Wall.HIDE),
    ),
    Probe(
        name="service-socket",
        control="fs.host-hidden",
        title="Call a host service over a unix socket in the file system",
        program="network/unix_socket.py",
        arguments={"kind": "path", "name": "{service}"},
        outside=HOST,
        witness="calls",
    ),
)

_ROOT: Final = (
    _write("write-usr", "Make a file below /usr", "/usr,/usr/bin,/usr/lib,/usr/local,/usr/local/bin", "/usr/local"),
    _write("write-etc", "Make a file in /etc", "/etc,/etc/ssl,/etc/alternatives", "/etc"),
    _write(
        "write-top", "Make a file in / or another top directory", "/,/bin,/lib,/sbin,/opt,/run,/var,/root,/home", "/opt"
    ),
    _write(
        "replace-program",
        "Change an installed program",
        "/usr/bin/env,/usr/bin/python3,/bin/sh",
        "/usr/local/tool",
        "files/change_files.py",
    ),
    _write(
        "change-settings",
        "Change system settings files",
        "/etc/passwd,/etc/group,/etc/hosts,/etc/ld.so.cache,/etc/resolv.conf",
        "/etc/tool",
        "files/change_files.py",
    ),
    Probe(
        name="remount",
        control="fs.ro-root",
        title="Remount a read-only mount writable",
        program="files/remount.py",
        arguments={"paths": "/usr,/mnt/granted"},
        outside=Outside(
            place=Place.REFERENCE, without=frozenset({Wall.CAPABILITIES}), arguments={"paths": "/mnt/granted"}
        ),
        alone=True,
    ),
    Probe(
        name="running-program",
        control="fs.ro-root",
        title="Overwrite the running interpreter through /proc/self/exe",
        program="files/self_exe.py",
        outside=Outside(place=Place.HOST, interpreter="interpreter"),
    ),
)

_MOUNTS: Final = (
    Probe(
        name="write-granted",
        control="fs.mounts",
        title="Write to a directory that was granted read-only",
        program="files/write_dirs.py",
        arguments={"paths": "/mnt/granted/open,/mnt/granted"},
        outside=lacking(Wall.MOUNTS),
    ),
    Probe(
        name="change-granted",
        control="fs.mounts",
        title="Change a file that was granted read-only",
        program="files/change_files.py",
        arguments={"paths": "/mnt/granted/file"},
        outside=lacking(Wall.MOUNTS),
    ),
    Probe(
        name="hard-link",
        control="fs.mounts",
        title="Write to a granted file through a hard link or descriptor",
        program="files/hard_link.py",
        arguments={"path": "/mnt/granted/file"},
        outside=Outside(place=Place.HOST, arguments={"path": "{granted}/file"}),
    ),
    Probe(
        name="outward-link",
        control="fs.mounts",
        title="Follow a link or .. out of a granted directory",
        program="files/read_path.py",
        arguments={"paths": "/mnt/granted/outward,/mnt/granted/../secret/file", "mark": "{mark}"},
        outside=Outside(place=Place.HOST, arguments={"paths": "{granted}/outward,{granted}/../secret/file"}),
    ),
)

_PRIVATE: Final = (
    _neighbour("fs.workspace", "workspace", "/workspace/neighbour", Wall.WORKSPACE),
    _race("race-read", "Make the host read elsewhere by swapping a directory with a link", "link"),
    _race("race-hard-link", "Make the host write elsewhere by swapping a file with a hard link", "hard"),
    _neighbour("fs.private-tmp", "tmp", "/tmp/neighbour", Wall.TMP),  # noqa: S108  # a path inside
    _neighbour("fs.private-tmp", "shm", "/dev/shm/neighbour", Wall.SHM),  # noqa: S108  # a path inside
    Probe(
        name="host-tmp",
        control="fs.private-tmp",
        title="Read a file that lies in the host's /tmp",
        program="files/read_path.py",
        arguments={"paths": "{host_tmp}", "mark": "{mark}"},
        outside=CALLER,
    ),
    Probe(
        name="host-shm",
        control="fs.private-tmp",
        title="Read a file that lies in the host's /dev/shm",
        program="files/read_path.py",
        arguments={"paths": "{shm}", "mark": "{mark}"},
        outside=CALLER,
    ),
)

_DEVICES: Final = (
    Probe(
        name="nodes",
        control="fs.devices",
        title="Find device nodes beyond the harmless ones",
        program="files/device_nodes.py",
        outside=lacking(Wall.DEVICES),
    ),
    _open(
        "hardware",
        "fs.devices",
        "Open the machine's memory or other hardware",
        "/dev/mem,/dev/kmem,/dev/port,/dev/nvram,/dev/hwrng,/dev/vga_arbiter",
    ),
    _open(
        "disk",
        "fs.devices",
        "Open a raw disk",
        "/dev/vda,/dev/sda,/dev/nvme0n1,/dev/xvda,/dev/dm-0,/dev/loop0,/dev/mapper/control",
    ),
    _open(
        "hypervisor", "fs.devices", "Open /dev/kvm, /dev/vhost-* or /dev/vsock", "/dev/kvm,/dev/vhost-net,/dev/vsock"
    ),
    _open("fuse", "fs.devices", "Open /dev/fuse or /dev/net/tun", "/dev/fuse,/dev/net/tun"),
    _open("kernel-log", "fs.devices", "Write to the kernel's log", "/dev/kmsg,/dev/log", mode="w"),
    Probe(
        name="make-node",
        control="fs.devices",
        title="Make a device node and open it",
        program="files/make_nodes.py",
        outside=CALLER,
    ),
)

_PROC: Final = (
    Probe(
        name="kcore",
        control="fs.proc",
        title="Read kernel memory through /proc/kcore",
        program="files/read_path.py",
        arguments={"paths": "/proc/kcore"},
        outside=CALLER,
    ),
    Probe(
        name="kernel-state",
        control="fs.proc",
        title="Read the kernel's symbols, keys, timers and page counts",
        program="files/read_path.py",
        arguments={
            "paths": "/proc/kallsyms,/proc/keys,/proc/key-users,/proc/timer_list,/proc/sched_debug,/proc/kmsg,"
            "/proc/kpageflags,/proc/vmallocinfo,/proc/slabinfo,/proc/latency_stats"
        },
        outside=BARE,
    ),
    Probe(
        name="machine-state",
        control="fs.proc",
        title="Read the machine's address map, boot line, disks and modules",
        program="files/read_path.py",
        arguments={"paths": ",".join(MACHINE_STATE), "same": "{machine_state}"},
        outside=BARE,
    ),
    _open("sysrq", "fs.proc", "Open /proc/sysrq-trigger for writing", "/proc/sysrq-trigger", mode="w"),
    Probe(
        name="settings",
        control="fs.proc",
        title="Open kernel settings for writing",
        program="files/knobs.py",
        outside=POWERFUL,
    ),
    Probe(
        name="sysfs-read",
        control="fs.proc",
        title="See the machine through /sys",
        program="files/read_path.py",
        arguments={"paths": "/sys,/sys/class/net,/sys/kernel,/sys/devices,/sys/fs/cgroup"},
        outside=lacking(Wall.SYS),
    ),
    Probe(
        name="sysfs-write",
        control="fs.proc",
        title="Open a cgroup's release agent or another setting in /sys for writing",
        program="files/sysfs.py",
        outside=CALLER,
    ),
    Probe(
        name="second-wall",
        control="fs.second-wall",
        title="Write to a host directory that was bound writable by mistake",
        program="files/second_wall.py",
        arguments={"path": "/mnt/granted/open"},
        outside=Outside(place=Place.HOST, arguments={"path": "{granted}/open"}),
        scenario="mistake",
        alone=True,
    ),
)

FILES: Final = (*_HIDDEN, *_ROOT, *_MOUNTS, *_PRIVATE, *_DEVICES, *_PROC)
"""All probes of fs.*."""
