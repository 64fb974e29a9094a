"""The filter against a model written apart from it: every number, both architectures, many arguments."""

from __future__ import annotations

import errno
import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linux_bpf import JA, JEQ, JGE, RET, Instruction, disassemble, run

from jubako.errors import InvalidPolicyError
from jubako.linux.seccomp import (
    DEFAULT,
    ESSENTIAL,
    Arch,
    Profile,
    Verdict,
    compile_filter,
    current_arch,
    describe,
    markdown,
    numbers,
)

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, EINVAL, ENOSYS = (0x50000 | code for code in (errno.EPERM, errno.EINVAL, errno.ENOSYS))
EAFNOSUPPORT, EPROTONOSUPPORT = 0x50000 | errno.EAFNOSUPPORT, 0x50000 | errno.EPROTONOSUPPORT
ESOCKTNOSUPPORT = 0x50000 | errno.ESOCKTNOSUPPORT
RUBBISH = 0xDEAD_BEEF << 32


def names(text: str) -> list[str]:
    return text.split()


MUST_REFUSE = names(
    """
    unshare setns mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    open_tree_attr io_uring_setup io_uring_enter io_uring_register
    bpf userfaultfd perf_event_open keyctl add_key request_key
    ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp memfd_secret open_by_handle_at name_to_handle_at quotactl
    quotactl_fd swapon swapoff reboot kexec_load kexec_file_load init_module finit_module delete_module syslog acct
    settimeofday clock_settime adjtimex clock_adjtime modify_ldt iopl ioperm vhangup lookup_dcookie fanotify_init
    fanotify_mark uselib nfsservctl seccomp sethostname setdomainname process_madvise process_mrelease mbind
    set_mempolicy migrate_pages move_pages remap_file_pages vmsplice sync syncfs _sysctl sysfs io_setup io_submit
    """
)
MUST_BE_ABSENT = ["clone3", "statmount", "listmount", "listns", "lsm_set_self_attr", "cachestat", "file_setattr"]
MUST_ALLOW = names(
    """
    read write openat close mmap mprotect munmap brk execve exit_group futex wait4 clock_gettime getrandom epoll_wait
    pipe2 dup3 kill rt_sigaction sendmsg recvmsg connect bind listen accept4 statx newfstatat rename renameat2 rseq
    inotify_add_watch memfd_create sched_getaffinity prlimit64 setsid landlock_create_ruleset membarrier pidfd_open
    """
)


def model(name: str | None, arguments: tuple[int, ...]) -> int:  # noqa: C901, PLR0911, PLR0912  # a table of cases
    """Say what must happen to one call, from the profile's plain groups and rules written out by hand."""
    a, b, c = (value & 0xFFFFFFFF for value in (*arguments, 0, 0, 0)[:3])
    if name is None:
        return ENOSYS
    if name == "clone":
        return EPERM if a & 0x7E020080 else ALLOW
    if name == "ioctl":
        return EPERM if b in {0x5412, 0x541C, 0x5423} else ALLOW
    if name == "personality":
        return ALLOW if a in {0, 8, 0x20000, 0x20008, 0xFFFFFFFF} else EPERM
    if name == "setpriority":
        return EPERM if c & 0x80000000 else ALLOW
    if name in {"mknod", "mknodat"}:
        mode = b if name == "mknod" else c
        return ALLOW if mode >> 12 & 0xF in {0, 1, 8, 12} else EPERM
    if name == "socketpair":
        return EAFNOSUPPORT if a != 1 else ALLOW if b & 15 in {1, 2, 5} else ESOCKTNOSUPPORT
    if name == "setsockopt":
        return EPERM if (b == 1 and c in {26, 50, 51, 52}) or (b == 6 and c == 31) else ALLOW
    if name == "socket":
        kind = b & 15
        if a not in {1, 2, 10}:
            return EAFNOSUPPORT
        if kind in {3, 10}:
            return EPERM
        if a == 1:
            return ALLOW if kind in {1, 2, 5} else ESOCKTNOSUPPORT if kind not in {1, 2} else EPROTONOSUPPORT
        if kind not in {1, 2}:
            return ESOCKTNOSUPPORT
        return ALLOW if c in ({0, 6} if kind == 1 else {0, 17}) else EPROTONOSUPPORT
    if name == "prctl":
        if a in {22, 28, 31, 32, 35, 59, 62, 67, 68, 0x59616D61}:
            return EPERM
        known = {1, 2, 3, 4, 7, 8, 15, 16, 21, 23, 24, 27, 29, 30, 34, *range(36, 43), 47, *range(50, 57), 60, 61}
        return ALLOW if a in known | {63, 64, 65, 66, 74, 75, 76, 78, 0x53564D41, 0x41555856} else EINVAL
    for group in DEFAULT.groups:
        if name in group.syscalls:
            return int(group.verdict)
    message = f"{name} is in no group"
    raise AssertionError(message)


CODE = {arch: disassemble(compile_filter(DEFAULT, arch)) for arch in Arch}
NAMES = {arch: {number: name for name, number in numbers(arch).items()} for arch in Arch}

INTERESTING = {
    "clone": (
        [0, 17, 0x1200011, 0x3D0F00, *(1 << bit for bit in range(32)), 0x10000011, 0x7E020000, 0xFFFFFFFF],
        [0],
        [0],
    ),
    "ioctl": ([0], [0x5401, 0x5411, 0x5412, 0x5413, 0x541C, 0x5423, 0x5414, 0, 0xFFFFFFFF, 0x80045430], [0]),
    "personality": ([0, 8, 0x20000, 0x20008, 0x40000, 0x400000, 0xFFFFFFFF, 0xFFFFFFFE, 6], [0], [0]),
    "setpriority": ([0, 1], [0, 1000], [0, 1, 19, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF6]),
    "mknod": ([0], [kind << 12 | bits for kind in range(16) for bits in (0, 0o644)] + [0x12000, 0x18000], [0]),
    "mknodat": ([0], [0], [kind << 12 | bits for kind in range(16) for bits in (0, 0o644)] + [0x12000, 0x18000]),
    "socket": (
        [*range(46), 0xFFFFFFFF],
        [kind | flags for kind in (*range(1, 12), 15) for flags in (0, 0x800, 0x80000)],
        [0, 1, 6, 17, 132, 136, 255, 256, 262],
    ),
    "socketpair": ([*range(46)], [*range(12), 0x80801, 0x80805], [0, 1]),
    "setsockopt": ([3], [0, 1, 6, 41, 263], [*range(80)]),
    "prctl": ([*range(85), 0x53564D41, 0x41555856, 0x59616D61, 0xFFFFFFFF], [0, 1], [0]),
}


@pytest.mark.parametrize("arch", list(Arch))
def test_every_number_gets_its_verdict(arch: Arch) -> None:
    chance = random.Random(7)
    for number in range(601):
        name = NAMES[arch].get(number)
        for _ in range(4):
            arguments = tuple(chance.getrandbits(64) for _ in range(6))
            assert run(CODE[arch], arch.audit, number, arguments) == model(name, arguments), (name, number, arguments)


@pytest.mark.parametrize("arch", list(Arch))
@pytest.mark.parametrize("name", [call for rule in DEFAULT.rules for call in rule.syscalls])
def test_every_argument_rule_gives_its_verdict(arch: Arch, name: str) -> None:
    number = numbers(arch).get(name)
    if number is None:
        assert (arch, name) == (Arch.AARCH64, "mknod")
        return
    for arguments in itertools.product(*INTERESTING[name]):
        wanted = model(name, arguments)
        assert run(CODE[arch], arch.audit, number, arguments) == wanted, arguments
        # The kernel drops the high half of these arguments, so the verdict must not depend on it.
        high = tuple(value | RUBBISH for value in arguments)
        assert run(CODE[arch], arch.audit, number, high) == wanted, high


@settings(max_examples=300, deadline=None)
@given(
    arch=st.sampled_from(list(Arch)),
    number=st.one_of(st.integers(0, 600), st.integers(0, 2**32 - 1)),
    arguments=st.tuples(*[st.one_of(st.integers(0, 50), st.integers(0, 2**64 - 1))] * 6),
)
def test_model_and_filter_agree(arch: Arch, number: int, arguments: tuple[int, ...]) -> None:
    wanted = model(NAMES[arch].get(number), arguments)
    if arch is Arch.X86_64 and 0x40000000 <= number < 0xFFFFFFFF:
        wanted = KILL
    assert run(CODE[arch], arch.audit, number, arguments) == wanted


@pytest.mark.parametrize("arch", list(Arch))
@pytest.mark.parametrize("foreign", [0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0, 0xFFFFFFFF])
def test_foreign_entry_points_end_the_process(arch: Arch, foreign: int) -> None:
    if foreign == arch.audit:
        return
    assert {run(CODE[arch], foreign, number, ()) for number in range(601)} == {KILL}


def test_x32_numbers_end_the_process() -> None:
    code, audit = CODE[Arch.X86_64], Arch.X86_64.audit
    assert {run(code, audit, 0x40000000 | number, ()) for number in range(601)} == {KILL}
    assert run(code, audit, 0xFFFFFFFE, ()) == KILL
    assert run(code, audit, -1, ()) == ENOSYS  # what strace and libseccomp use for "no call"


@pytest.mark.parametrize("arch", list(Arch))
def test_named_calls_are_refused_and_allowed(arch: Arch) -> None:
    table = numbers(arch)

    def verdicts(wanted: list[str]) -> set[int]:
        return {run(CODE[arch], arch.audit, table[name], (0,) * 6) for name in wanted if name in table}

    assert verdicts(MUST_REFUSE) == {EPERM}
    assert verdicts(MUST_BE_ABSENT) == {ENOSYS}
    assert verdicts(MUST_ALLOW) == {ALLOW}
    known = {name for any_arch in Arch for name in numbers(any_arch)}
    assert not set(MUST_REFUSE + MUST_BE_ABSENT + MUST_ALLOW) - known


@pytest.mark.parametrize("arch", list(Arch))
def test_program_is_one_that_the_kernel_loads(arch: Arch) -> None:
    code = CODE[arch]
    assert len(code) < 4096
    assert code[-1][0] == RET
    for position, (operation, yes, no, value) in enumerate(code):
        targets = [value] if operation == JA else [yes, no] if operation in {JEQ, JGE} else []
        assert all(position + 1 + target < len(code) for target in targets)


def test_no_call_costs_many_instructions() -> None:
    def steps(code: list[Instruction], number: int) -> int:
        position = count = 0
        while code[position][0] != RET:
            operation, yes, no, value = code[position]
            count += 1
            position += 1
            if operation == JA:
                position += value
            elif operation == JEQ:
                position += yes if value == Arch.X86_64.audit else no
            elif operation == JGE:
                position += yes if number >= value else no
        return count

    plain = [number for name, number in numbers(Arch.X86_64).items() if name not in INTERESTING]
    assert max(steps(CODE[Arch.X86_64], number) for number in plain) <= 24


def test_every_known_call_is_named_once_with_a_reason() -> None:
    named = [name for name, _ in DEFAULT.entries()]
    assert len(named) == len(set(named))
    assert set(named) == {name for arch in Arch for name in numbers(arch)}
    reasons = [group.reason for group in DEFAULT.groups] + [rule.reason for rule in DEFAULT.rules]
    assert all(len(reason) > 10 for reason in reasons)


def test_denied_calls_are_refused_too() -> None:
    code = disassemble(compile_filter(DEFAULT.narrowed(["inotify_init1", "socket", "clone3"]), Arch.X86_64))
    table, audit = numbers(Arch.X86_64), Arch.X86_64.audit
    assert run(code, audit, table["inotify_init1"], ()) == EPERM
    assert run(code, audit, table["socket"], (1, 1, 0)) == EPERM
    assert run(code, audit, table["clone3"], ()) == ENOSYS  # was refused before, in the way that libraries expect
    for name, number in table.items():
        if name not in {"inotify_init1", "socket"}:
            assert run(code, audit, number, (1, 1, 0)) == run(CODE[Arch.X86_64], audit, number, (1, 1, 0))


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(sorted({name for name, _ in DEFAULT.entries()} - ESSENTIAL)), max_size=40))
def test_narrowing_only_narrows(deny: set[str]) -> None:
    code = disassemble(compile_filter(DEFAULT.narrowed(deny), Arch.X86_64))
    for name, number in numbers(Arch.X86_64).items():
        arguments = (1, 1, 0, 0, 0, 0)
        before = run(CODE[Arch.X86_64], Arch.X86_64.audit, number, arguments)
        after = run(code, Arch.X86_64.audit, number, arguments)
        assert after == before or (after == EPERM and name in deny)
        assert after != ALLOW or name not in deny


def test_widening_grants_what_no_policy_denies() -> None:
    def verdicts(profile: Profile) -> dict[str, object]:
        return dict(profile.entries())

    plain, wide = verdicts(DEFAULT), verdicts(DEFAULT.widened(["sethostname"]))
    assert {name for name in plain if plain[name] != wide[name]} == {"sethostname"}
    assert wide["sethostname"] is Verdict.ALLOW
    denied = DEFAULT.narrowed(["sethostname"])
    for profile in (denied.widened(["sethostname"]), DEFAULT.widened(["sethostname"]).narrowed(["sethostname"])):
        assert verdicts(profile)["sethostname"] is Verdict.EPERM


def test_unknown_and_essential_names_are_refused() -> None:
    with pytest.raises(InvalidPolicyError, match="unknown system call 'opnat', 'zap'") as caught:
        DEFAULT.narrowed(["opnat", "zap", "sync"])
    assert caught.value.details["unknown"] == ["opnat", "zap"]
    with pytest.raises(InvalidPolicyError, match="names execve, without which"):
        DEFAULT.narrowed(["execve"])
    assert DEFAULT.narrowed([]) == DEFAULT


def test_profiles_for_programs_without_any_rule_compile() -> None:
    tiny = Profile("tiny", groups=DEFAULT.groups[:1], rules=())
    code = disassemble(compile_filter(tiny, Arch.X86_64))
    assert run(code, Arch.X86_64.audit, 0, ()) == ALLOW
    assert run(code, Arch.X86_64.audit, 59, ()) == ENOSYS


@pytest.mark.parametrize("arch", list(Arch))
def test_numbers_agree_with_libseccomp(arch: Arch) -> None:
    import ctypes

    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp2 is not installed")
    resolve = library.seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    found = {name: resolve(arch.audit, name.encode()) for name in numbers(arch)}
    wrong = {name: number for name, number in found.items() if number >= 0 and number != numbers(arch)[name]}
    assert not wrong
    assert sum(number >= 0 for number in found.values()) > 300


def test_numbers_agree_with_the_headers() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("linux-libc-dev is not installed")
    listed = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    assert {name: numbers(Arch.X86_64).get(name) for name in listed} == listed


def test_verdicts_say_their_error_number() -> None:
    assert Verdict.EPERM.errno == errno.EPERM
    assert Verdict.EAFNOSUPPORT.errno == errno.EAFNOSUPPORT
    assert Verdict.ALLOW.errno is None
    assert Verdict.KILL.errno is None


def test_description_covers_everything() -> None:
    rows = describe(DEFAULT)
    assert {name for row in rows for name in row.syscalls} == {name for name, _ in DEFAULT.entries()}
    assert all(row.reason for row in rows)
    narrowed = describe(DEFAULT.narrowed(["socket", "inotify_init"]))
    policy = narrowed[-1]
    assert (policy.name, policy.verdict, policy.syscalls) == ("policy", "EPERM", ("inotify_init", "socket"))
    assert "socket" not in {name for row in narrowed[:-1] for name in row.syscalls}


def test_table_is_printed() -> None:
    done = subprocess.run([sys.executable, "-m", "jubako.linux.seccomp"], capture_output=True, text=True, check=True)
    assert done.stdout == markdown(DEFAULT) + "\n"
    assert "| ENOSYS | uninspectable |" in done.stdout
    assert "`clone3`" in done.stdout
    assert len(done.stdout.splitlines()) == 2 + len(DEFAULT.groups) + len(DEFAULT.rules)


def test_current_architecture_has_a_table() -> None:
    assert compile_filter(DEFAULT) == compile_filter(DEFAULT, current_arch())
