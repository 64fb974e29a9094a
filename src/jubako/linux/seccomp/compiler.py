"""Profiles to classic BPF: an array of ``struct sock_filter`` for ``bwrap --seccomp`` or prctl.

The program checks the architecture, then finds the call's number by binary search over ranges of
equal verdict, so that no call costs more than a handful of instructions. Calls without rules on
arguments end in a constant; the kernel (5.11 and later) recognises that at load time and answers
the allowed ones without running the program at all.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from jubako.linux.seccomp.model import ArgumentRule, Case, Test, Verdict
from jubako.linux.seccomp.tables import Arch, current_arch, numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jubako.linux.seccomp.model import Profile

__all__ = ["compile_filter"]

# Instruction codes of <linux/bpf_common.h>: LD|W|ABS, ALU|AND|K, JMP|JA, JMP|JEQ|K, JMP|JGE|K, RET|K.
_LD: Final = 0x20
_AND: Final = 0x54
_JA: Final = 0x05
_JEQ: Final = 0x15
_JGE: Final = 0x35
_RET: Final = 0x06

# Offsets in struct seccomp_data; both architectures are little endian, so an argument's low half comes first.
_NR: Final = 0
_ARCH: Final = 4
_ARGUMENTS: Final = 16

_X32_BIT: Final = 0x40000000
_NO_CALL: Final = 0xFFFFFFFF
_NEAR: Final = 255
_MAX_INSTRUCTIONS: Final = 4096

_Code: TypeAlias = list[tuple[int, int, int, int]]
_Leaf: TypeAlias = Verdict | ArgumentRule


def compile_filter(profile: Profile, arch: Arch | None = None) -> bytes:
    """Return the filter program of ``profile`` for ``arch`` (this machine's when not given).

    Calls that the profile names get its verdict; numbers that no table knows get ENOSYS, so that C
    libraries fall back to older calls; other architectures' entry points end the process.

    Raises:
        DriverUnavailableError: ``arch`` is not given and this machine's has no table.
    """
    arch = arch or current_arch()
    code: _Code = [
        # A 32-bit entry point has other numbers: what is harmless in one table is not in the other.
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, arch.audit),
        (_RET, 0, 0, Verdict.KILL),
        (_LD, 0, 0, _NR),
    ]
    code += _search(_ranges(profile, arch))
    if len(code) > _MAX_INSTRUCTIONS:
        msg = f"filter of {len(code)} instructions is over the kernel's limit"
        raise AssertionError(msg)
    return b"".join(struct.pack("<HBBI", *step) for step in code)


def _ranges(profile: Profile, arch: Arch) -> list[tuple[int, _Leaf]]:
    """Return (first number, leaf) pairs in order; each range ends where the next begins."""
    table = numbers(arch)
    leaves: dict[int, _Leaf] = {table[name]: leaf for name, leaf in profile.entries() if name in table}
    ranges: list[tuple[int, _Leaf]] = []
    for number in range(max(leaves) + 2):
        leaf = leaves.get(number, Verdict.ENOSYS)
        if not ranges or ranges[-1][1] is not leaf:
            ranges.append((number, leaf))
    if arch is Arch.X86_64:
        ranges += [(_X32_BIT, Verdict.KILL), (_NO_CALL, Verdict.ENOSYS)]
    return ranges


def _search(ranges: Sequence[tuple[int, _Leaf]]) -> _Code:
    if len(ranges) == 1:
        leaf = ranges[0][1]
        return [(_RET, 0, 0, leaf)] if isinstance(leaf, Verdict) else _rule(leaf)
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    start = ranges[middle][0]
    if len(low) <= _NEAR:
        return [(_JGE, len(low), 0, start), *low, *high]
    return [(_JGE, 0, 1, start), (_JA, 0, 0, len(low)), *low, *high]


def _rule(rule: ArgumentRule) -> _Code:
    code: _Code = []
    for case in rule.cases:
        code += _case(case)
    return [*code, (_RET, 0, 0, rule.otherwise)]


def _case(case: Case) -> _Code:
    """Return code that answers the case's verdict or falls out at its end."""
    code: _Code = [(_RET, 0, 0, case.verdict)]
    for test in reversed(case.tests):
        code = [*_test(test, len(code)), *code]
    return code


def _test(test: Test, rest: int) -> _Code:
    """Return code that goes on when the test holds and skips ``rest`` instructions when it does not."""
    code: _Code = [(_LD, 0, 0, _ARGUMENTS + 8 * test.argument)]
    if test.mask != 0xFFFFFFFF:
        code.append((_AND, 0, 0, test.mask))
    for index, value in enumerate(test.values):
        left = len(test.values) - index - 1
        if test.negate:
            code.append((_JEQ, left + rest, 0, value))
        else:
            code.append((_JEQ, left, 0 if left else rest, value))
    return code
