"""Which host paths make up the guest's root file system, and what is masked in it.

The host's toolchain is shown read-only; nothing else of the host exists inside. ``/etc`` is made
up, but for a few harmless entries that programs need to run at all.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ETC_FILES", "LIBRARY", "PATH", "RESERVED", "etc_shared", "proc_masks", "toolchain"]

LIBRARY: Final = "/run/jubako/lib"
"""Modules for programs inside: a client for host functions, where the policy grants some."""

PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
"""Where programs are looked up inside."""

RESERVED: Final = ("/", "/dev", "/etc", "/proc", "/run", "/sys", "/usr")
"""Paths inside that a mount or the workspace may not cover as a whole."""

_TOP: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")

_ETC_SHARED: Final = (
    # control: fs.host-hidden - each of these is world-readable configuration without secrets; each mount costs 0.1 ms
    "alternatives",  # Debian's links from /usr/bin to the chosen program
    "fonts",  # plots with text
    "ld.so.cache",  # fast library lookup
    "localtime",
    "pki/tls/certs",  # certificate authorities, never private keys
    "ssl/certs",
    "ssl/openssl.cnf",
)

_PROC_MASKS: Final = (
    # control: fs.proc - host state that a fresh procfs still shows, as in the OCI runtimes' lists
    "acpi",
    "asound",
    "cmdline",
    "config.gz",
    "diskstats",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "modules",
    "partitions",
    "pressure",
    "sched_debug",
    "schedstat",
    "scsi",
    "slabinfo",
    "sysrq-trigger",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
)

ETC_FILES: Final = {
    "passwd": "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
    "user:x:1000:1000:user:{home}:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n",
    "hostname": "{hostname}\n",
    "machine-id": "{machine_id}\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    "resolv.conf": "# No resolver: this sandbox has no network.\n",
}
"""Made-up files of /etc; braces are filled per sandbox."""


def toolchain(root: str = "/") -> tuple[tuple[str, str], ...]:
    """Return what to put at the guest's top level: ``("bin", "usr/bin")`` for links, ``("lib", "")`` for binds."""
    entries: list[tuple[str, str]] = []
    for name in _TOP:
        path = os.path.join(root, name)  # noqa: PTH118  # plain strings: these go into an argument vector
        if os.path.islink(path):  # noqa: PTH114
            entries.append((name, os.readlink(path).lstrip("/")))  # noqa: PTH115
        elif os.path.isdir(path):  # noqa: PTH112
            entries.append((name, ""))
    return tuple(entries)


def etc_shared(root: str = "/etc") -> tuple[str, ...]:
    """Return the entries of /etc that exist here and are shown inside."""
    return tuple(name for name in _ETC_SHARED if os.path.exists(os.path.join(root, name)))  # noqa: PTH110, PTH118


def proc_masks(root: str = "/proc") -> tuple[tuple[str, bool], ...]:
    """Return the entries of /proc that exist here and must be masked, each with whether it is a directory.

    Those that only root can read need no mask: nothing in the sandbox is root to the host's kernel.
    """

    def present() -> Iterator[tuple[str, bool]]:
        for name in _PROC_MASKS:
            path = os.path.join(root, name)  # noqa: PTH118
            with contextlib.suppress(FileNotFoundError):
                mode = os.stat(path).st_mode  # noqa: PTH116
                if mode & (stat.S_IROTH | stat.S_IWOTH):
                    yield name, stat.S_ISDIR(mode)

    return tuple(present())
