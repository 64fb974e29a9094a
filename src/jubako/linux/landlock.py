"""Landlock on the host side: which version the kernel offers, and the constants of its interface."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from jubako.boundary.contract import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ACCESS_FS", "ACCESS_NET", "SCOPES", "landlock_abi", "landlock_support"]

_CREATE_RULESET: Final = 444  # the same number on every architecture
_VERSION_FLAG: Final = 1

ACCESS_FS: Final[Mapping[str, tuple[int, int]]] = {
    "execute": (1 << 0, 1),
    "write_file": (1 << 1, 1),
    "read_file": (1 << 2, 1),
    "read_dir": (1 << 3, 1),
    "remove_dir": (1 << 4, 1),
    "remove_file": (1 << 5, 1),
    "make_char": (1 << 6, 1),
    "make_dir": (1 << 7, 1),
    "make_reg": (1 << 8, 1),
    "make_sock": (1 << 9, 1),
    "make_fifo": (1 << 10, 1),
    "make_block": (1 << 11, 1),
    "make_sym": (1 << 12, 1),
    "refer": (1 << 13, 2),
    "truncate": (1 << 14, 3),
    "ioctl_dev": (1 << 15, 5),
}
"""Bit and first version of every right on files."""

ACCESS_NET: Final[Mapping[str, tuple[int, int]]] = {"bind_tcp": (1 << 0, 4), "connect_tcp": (1 << 1, 4)}
"""Bit and first version of every right on the network."""

SCOPES: Final[Mapping[str, tuple[int, int]]] = {"abstract_unix_socket": (1 << 0, 6), "signal": (1 << 1, 6)}
"""Bit and first version of every scope."""


def landlock_abi() -> int:
    """Return the kernel's Landlock version; 0 when there is none."""
    return landlock_support()[0]


def landlock_support() -> tuple[int, Reason | None]:
    """Return the kernel's Landlock version, or 0 and the reason."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    if version > 0:
        return version, None
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        return 0, Reason("landlock-missing", "the kernel has no Landlock", "use Linux 5.13 or later")
    if number == errno.EOPNOTSUPP:
        remedy = "add landlock to the kernel's lsm= parameter"
        return 0, Reason("landlock-disabled", "Landlock is built into the kernel but switched off", remedy)
    return 0, Reason("landlock-refused", f"the kernel refuses Landlock: {errno.errorcode.get(number, number)}")
