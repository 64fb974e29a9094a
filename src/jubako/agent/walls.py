"""The last walls, put up from inside before the host sends the first request.

A driver whose tool can't mount a tmpfs with an inode limit, or that must leave the privilege to do
so to the first process, lets the agent finish the job: private tmpfs mounts in a mount namespace of
its own, then no capability at all, then the system call filter. Nothing but the agent has run inside
until then, and the host checks the result from outside before it goes on.
"""

from __future__ import annotations

import errno
import posix
from _struct import pack

from . import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND = 1, 2, 4, 4096
PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 22, 23, 24, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
LAST_CAPABILITY = 63
CAP_SYS_ADMIN = 1 << 21


def mount_private(mounts: "Iterable[bytes]") -> None:
    """Mount a tmpfs for each ``path NUL options``; raise OSError naming the path.

    Options that begin with ``ro,`` make an unchangeable one. Without options the path is a file, and
    /dev/null covers it. A mount namespace of our own is needed: the one that the launcher made belongs
    to the user namespace above ours, where our capabilities count for nothing.
    """
    wanted = [entry.split(b"\0", 1) for entry in mounts]
    if not wanted:
        return
    native.call("unshare", CLONE_NEWNS)
    for path, options in wanted:
        try:
            if not options:
                native.call("mount", b"/dev/null", path, b"", MS_BIND, b"")
            elif options.startswith(b"ro,"):
                native.call("mount", b"tmpfs", path, b"tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, options[3:])
            else:
                native.call("mount", b"tmpfs", path, b"tmpfs", MS_NOSUID | MS_NODEV, options)
        except OSError as error:
            code = error.errno or errno.EIO
            raise OSError(code, "mount on " + path.decode("utf-8", "replace") + ": " + posix.strerror(code)) from None


def drop_capabilities(*, renewable: bool) -> None:
    """Empty all five capability sets. Raises OSError if one can't be emptied.

    If ``renewable``, the agent itself keeps what it takes to change the host name, put away until then.
    No program gets it: what a program is started with comes from the other sets, which are empty.
    """
    try:
        native.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel without that set, such as gVisor's
            raise
    for capability in range(LAST_CAPABILITY + 1):
        try:
            held = native.call("prctl", PR_CAPBSET_READ, capability, 0, 0, 0)
        except OSError:
            break  # the kernel knows no further ones
        if held:
            native.call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
    _set_capabilities(0, CAP_SYS_ADMIN if renewable else 0)


def use_capability() -> None:
    """Take up the capability that was kept. Raises OSError if none was."""
    _set_capabilities(CAP_SYS_ADMIN, CAP_SYS_ADMIN)


def rest_capability() -> None:
    """Put it away again. Raises OSError."""
    _set_capabilities(0, CAP_SYS_ADMIN)


def _set_capabilities(effective: int, permitted: int) -> None:
    # For each half of the numbers: effective, permitted, inheritable.
    sets = pack("IIIIII", effective, permitted, 0, 0, 0, 0)
    native.call("capset", pack("II", CAPABILITY_VERSION_3, 0), sets)


def load_filter(program: bytes) -> None:
    """Put this process and all that it starts behind a seccomp filter. Raises OSError.

    ``program`` is an array of ``struct sock_filter``, eight bytes each.
    """
    memory, address = native.copy_out(program)
    native.call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, pack("HxxxxxxP", len(program) // 8, address), 0, 0)
    del memory
