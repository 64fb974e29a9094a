"""What the agent does to itself before it serves: limits, no dumps, Landlock as a second wall.

System calls without a Python function go through the C module under ``ctypes``: importing ``ctypes``
itself would cost a third of the whole start-up.
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional, Sequence, Tuple

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 4, 36, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RLIMIT_NOFILE = 7
_LIBC = "libc.so.6"
AGENT_FILES = 256
"""Descriptors below which a limit is given to programs only and not to the agent."""

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV, _REFER = 1 << 14, 1 << 15, 1 << 13
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_SCOPES = 3
"""Abstract unix sockets and signals stay within the domain (ABI 6)."""


class LibC:
    """Direct calls into the C library, or nothing where the interpreter can't."""

    def __init__(self) -> None:
        self._call: Optional[Callable[..., int]] = None
        self._handle = 0
        try:
            import _ctypes  # loaded while the host answers HELLO

            self._handle = _ctypes.dlopen(_LIBC, posix.RTLD_NOW)
            self._symbol = _ctypes.dlsym
            self._call = _ctypes.call_function
        except (ImportError, AttributeError, OSError):
            self._call = None

    @property
    def works(self) -> bool:
        """Whether calls can be made at all."""
        return self._call is not None

    def __call__(self, name: str, *arguments: object) -> int:
        """Return what the function returned; -1 also where no call can be made."""
        if self._call is None:
            return -1
        return self._call(self._symbol(self._handle, name), arguments)


def set_limits(values: Sequence[int]) -> List[Tuple[int, int, int]]:
    """Apply resource limits, given as kind, soft, hard, ...; return those meant for programs only."""
    import resource  # loaded while the host answered HELLO

    for_programs: List[Tuple[int, int, int]] = []
    for at in range(0, len(values) - 2, 3):
        kind, soft, hard = (_limit(value) for value in values[at : at + 3])
        old_hard = resource.getrlimit(kind)[1]
        if old_hard != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > old_hard):
            hard = old_hard
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            soft = hard
        if kind == _RLIMIT_NOFILE and 0 <= hard < AGENT_FILES:
            for_programs.append((kind, soft, hard))  # control: resource.open-files
        else:
            resource.setrlimit(kind, (soft, hard))
    return for_programs


def _limit(value: int) -> int:
    return -1 if value >= 2**63 else value


def set_process_flags(libc: LibC) -> None:
    """Hide the agent's memory and descriptors from the programs, which run as the same user."""
    libc("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # control: syscall.no-new-privileges
    if posix.getpid() != 1:
        libc("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def landlock_abi(libc: LibC) -> int:
    """Return the kernel's Landlock ABI, 0 when it has none or forbids it."""
    return max(0, libc("syscall", _CREATE_RULESET, None, 0, 1))


def _handled(abi: int) -> int:
    rights = (1 << 13) - 1
    for least, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if abi >= least:
            rights |= right
    return rights


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, sys.byteorder)


def restrict(libc: LibC, abi: int, readable: List[bytes], writable: List[bytes]) -> str:
    """Apply Landlock to the agent and all its descendants. Returns what went wrong, "" if nothing."""
    handled = _handled(abi)
    attributes = _number(handled, 8)
    if abi >= 4:
        attributes += _number(0, 8)
    if abi >= 6:
        attributes += _number(_SCOPES, 8)
    ruleset = libc("syscall", _CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return "the rule set was refused"
    try:
        # A directory above the listed ones must still be listable.
        problem = _allow(libc, ruleset, b"/", _READ_DIR & handled)
        for path in readable:
            problem = problem or _allow(libc, ruleset, path, _READ & handled)
        for path in writable:
            # Device nodes can't be made: that right is never granted.  control: fs.devices
            problem = problem or _allow(libc, ruleset, path, handled & ~(1 << 6) & ~(1 << 11))
        if problem:
            return problem
        if libc("syscall", _RESTRICT_SELF, ruleset, 0) != 0:  # control: fs.second-wall
            return "the restriction was refused"
    finally:
        posix.close(ruleset)
    return ""


def _allow(libc: LibC, ruleset: int, path: bytes, rights: int) -> str:
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
    except FileNotFoundError:
        # Nothing there, nothing to allow.
        return ""
    except OSError as error:
        return "%s: %s" % (path.decode("utf-8", "replace"), posix.strerror(error.errno or 0))
    try:
        if posix.fstat(fd).st_mode & 0o170000 != 0o040000:
            rights &= _FILE_RIGHTS
        rule = _number(rights, 8) + _number(fd, 4)
        if libc("syscall", _ADD_RULE, ruleset, 1, rule, 0) != 0:
            return "%s: the rule was refused" % path.decode("utf-8", "replace")
    finally:
        posix.close(fd)
    return ""
