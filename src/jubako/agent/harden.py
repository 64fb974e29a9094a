"""What the agent does to itself before it serves: limits, no dumps, Landlock as a second wall."""

from __future__ import annotations

import posix
import sys

from . import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 4, 36, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV, _REFER = 1 << 14, 1 << 15, 1 << 13
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_MAKE_NODES = 1 << 6 | 1 << 11
_SCOPES = 3
"""Abstract unix sockets and signals stay within the domain (ABI 6)."""


def set_process_flags() -> None:
    """Hide the agent's memory and descriptors from the programs, which run as the same user. Raises OSError."""
    native.call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    native.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # control: syscall.no-new-privileges
    if posix.getpid() != 1:
        native.call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def landlock_abi() -> int:
    """Return the kernel's Landlock ABI. Raises OSError where it has none or forbids it."""
    return native.call("syscall", _CREATE_RULESET, 0, 0, 1)


def _handled(abi: int) -> int:
    rights = (1 << 13) - 1
    for least, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if abi >= least:
            rights |= right
    return rights


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, sys.byteorder)


def restrict(abi: int, readable: List[bytes], writable: List[bytes]) -> None:
    """Apply Landlock to the agent and all its descendants. Raises OSError naming the step or path."""
    handled = _handled(abi)
    attributes = _number(handled, 8)
    if abi >= 4:
        attributes += _number(0, 8)
    if abi >= 6:
        attributes += _number(_SCOPES, 8)
    ruleset = native.call("syscall", _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        # A directory above the listed ones must still be listable.
        _allow(ruleset, b"/", _READ_DIR)
        for path in readable:
            _allow(ruleset, path, _READ)
        for path in writable:
            # Device nodes can't be made: that right is never granted.  control: fs.devices
            _allow(ruleset, path, handled & ~_MAKE_NODES)
        native.call("syscall", _RESTRICT_SELF, ruleset, 0)  # control: fs.second-wall
    finally:
        posix.close(ruleset)


def _allow(ruleset: int, path: bytes, rights: int) -> None:
    fd = -1
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
        if posix.fstat(fd).st_mode & 0o170000 != 0o040000:
            rights &= _FILE_RIGHTS
        native.call("syscall", _ADD_RULE, ruleset, 1, _number(rights, 8) + _number(fd, 4), 0)
    except FileNotFoundError:
        # Nothing there, nothing to allow.
        pass
    except OSError as error:
        number = error.errno or 0
        raise OSError(number, path.decode("utf-8", "replace") + ": " + posix.strerror(number)) from None
    finally:
        if fd >= 0:
            posix.close(fd)
