"""What a filter says: verdicts, groups of system calls with reasons, rules on arguments, profiles."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from jubako.errors import InvalidPolicyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["ESSENTIAL", "ArgumentRule", "Case", "Group", "Profile", "Test", "Verdict"]

_RET_ERRNO: Final = 0x00050000

ESSENTIAL: Final = frozenset({
    "brk", "clone", "close", "dup2", "dup3", "execve", "exit", "exit_group", "fcntl", "fstat", "futex", "getdents64",
    "getpid", "getrandom", "ioctl", "kill", "lseek", "mmap", "mprotect", "munmap", "newfstatat", "openat", "pipe2",
    "poll", "ppoll", "prctl", "pread64", "prlimit64", "read", "readlink", "readlinkat", "rt_sigaction",
    "rt_sigprocmask", "rt_sigreturn", "set_robust_list", "set_tid_address", "wait4", "waitid", "write", "writev",
})  # fmt: skip
"""Calls without which no program starts; a policy that denies one of them is refused instead of half working."""


class Verdict(IntEnum):
    """What the kernel does with a call; the value is the filter's return value."""

    ALLOW = 0x7FFF0000
    KILL = 0x80000000
    EPERM = _RET_ERRNO | errno.EPERM
    EINVAL = _RET_ERRNO | errno.EINVAL
    ENOSYS = _RET_ERRNO | errno.ENOSYS
    EPROTONOSUPPORT = _RET_ERRNO | errno.EPROTONOSUPPORT
    ESOCKTNOSUPPORT = _RET_ERRNO | errno.ESOCKTNOSUPPORT
    EAFNOSUPPORT = _RET_ERRNO | errno.EAFNOSUPPORT

    @property
    def errno(self) -> int | None:
        """The error number that the caller sees, or None for ALLOW and KILL."""
        return self & 0xFFFF if self & 0xFFFF0000 == _RET_ERRNO else None


@dataclass(frozen=True, slots=True)
class Group:
    """System calls that share one verdict for one reason."""

    name: str
    reason: str
    syscalls: tuple[str, ...]
    verdict: Verdict = Verdict.ALLOW


@dataclass(frozen=True, slots=True)
class Test:
    """True when the masked low half of an argument is (or, ``negate``, is not) among ``values``.

    Only the low 32 bits are read: every argument tested here is an ``int`` or ``unsigned int`` to the
    kernel, which drops the high half, so rubbish up there must not change the verdict.
    """

    __test__ = False  # pytest: not a test class

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """A verdict for calls that pass all tests."""

    tests: tuple[Test, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ArgumentRule:
    """Calls whose verdict depends on arguments: the first case that fits, else ``otherwise``."""

    name: str
    reason: str
    syscalls: tuple[str, ...]
    cases: tuple[Case, ...]
    otherwise: Verdict
    summary: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A whole filter: groups and rules that name every known call, plus calls denied by a policy."""

    name: str
    groups: tuple[Group, ...]
    rules: tuple[ArgumentRule, ...]
    denied: frozenset[str] = frozenset()
    granted: frozenset[str] = frozenset()

    def entries(self) -> Iterator[tuple[str, Verdict | ArgumentRule]]:
        """Yield every call named by the profile with its verdict or rule."""
        for rule in self.rules:
            for name in rule.syscalls:
                yield name, Verdict.EPERM if name in self.denied else rule
        for group in self.groups:
            for name in group.syscalls:
                verdict = Verdict.ALLOW if name in self.granted else group.verdict
                refused = name in self.denied and verdict is Verdict.ALLOW
                yield name, Verdict.EPERM if refused else verdict

    def widened(self, grant: Iterable[str]) -> Profile:
        """Return this profile with calls allowed that it refuses; a denial wins, earlier or later.

        For what a driver's own first process has to call and another wall keeps from programs, such as
        a capability that they lack.
        """
        return replace(self, granted=self.granted | frozenset(grant))

    def narrowed(self, deny: Iterable[str]) -> Profile:
        """Return this profile with further calls refused (EPERM).

        Raises:
            InvalidPolicyError: A name is unknown, or no program can start without that call.
        """
        wanted = frozenset(deny)
        unknown = sorted(wanted - {name for name, _ in self.entries()})
        if unknown:
            msg = f"unknown system call {', '.join(map(repr, unknown))} in syscalls.deny"
            hint = "names are the kernel's, as in `man 2 syscalls`"
            raise InvalidPolicyError(msg, hint=hint, details={"field": "syscalls.deny", "unknown": unknown})
        needed = sorted(wanted & ESSENTIAL)
        if needed:
            msg = f"syscalls.deny names {', '.join(needed)}, without which no program can start"
            raise InvalidPolicyError(msg, details={"field": "syscalls.deny", "essential": needed})
        return replace(self, denied=self.denied | wanted)
