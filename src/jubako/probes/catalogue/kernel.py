"""Probes of syscall.*: the kernel's surface, capabilities, privilege gain, namespaces, terminals."""

from __future__ import annotations

from typing import Final

from jubako.probes.catalogue._ways import BARE, CALLER, HOST, POWERFUL
from jubako.probes.model import Outside, Place, Probe

__all__ = ["KERNEL"]


def _reach(name: str, title: str, calls: str, outside: Outside = BARE) -> Probe:
    return Probe(
        name=name,
        control="syscall.allowlist",
        title=title,
        program="kernel/reach.py",
        arguments={"names": calls},
        outside=outside,
    )


def _program(
    control: str, name: str, title: str, program: str, *, outside: Outside = POWERFUL, **arguments: str
) -> Probe:
    return Probe(
        name=name,
        control=control,
        title=title,
        program=f"kernel/{program}.py",
        arguments=arguments,
        outside=outside,
    )


_SURFACE: Final = (
    _reach("io-uring", "Make system calls by io_uring", "io_uring_setup,io_uring_enter"),
    _reach("bpf", "Load a program into the kernel", "bpf"),
    _reach("userfaultfd", "Handle own page faults", "userfaultfd"),
    _reach("perf", "Open performance counters", "perf_event_open"),
    _reach("keys-request", "Request a key", "request_key"),
    _reach("keys-control", "Act on keyrings", "keyctl"),
    _reach("file-handles", "Turn paths into handles and back", "name_to_handle_at,open_by_handle_at"),
    _reach("fanotify", "Watch whole mounts", "fanotify_init"),
    _reach("other-memory", "Reach into other processes", "process_vm_readv,process_madvise,pidfd_getfd,kcmp,ptrace"),
    _reach("page-moves", "Move pages between memory nodes", "move_pages,mbind"),
    _reach("page-gifts", "Give pages to a pipe, or remap them", "vmsplice,remap_file_pages"),
    _reach("hidden-memory", "Make memory that the host can't see", "memfd_secret"),
    _reach("old-aio", "Use the old asynchronous I/O", "io_setup"),
    _reach("segments", "Change segments or I/O rights", "modify_ldt,iopl,ioperm"),
    _reach("personality", "Turn off address randomisation", "personality"),
    _reach("mount-queries", "Ask for mounts by number", "statmount,listmount"),
    _reach("filters", "Load system call filters", "seccomp"),
    _reach("clone3", "Make processes in a way that filters can't see into", "clone3"),
    _reach("host-flush", "Flush every file system of the host", "syncfs"),
    _reach("reboot", "Reboot the machine", "reboot", POWERFUL),
    _reach(
        "administration",
        "Load modules, start another kernel, change swap or accounting",
        "init_module,finit_module,delete_module,kexec_load,kexec_file_load,swapon,swapoff,acct",
        CALLER,
    ),
    _reach("kernel-log", "Read the kernel's log by syslog", "syslog", CALLER),
    _program("syscall.allowlist", "keys-add", "Keep data in a kernel keyring", "keyring", outside=BARE),
    _program(
        "syscall.allowlist", "other-entries", "Call the kernel by its 32-bit entry or x32", "entries", outside=BARE
    ),
    _program("syscall.allowlist", "line-discipline", "Load a terminal line discipline", "discipline", outside=BARE),
)

_CAPABILITIES: Final = (
    _program("syscall.capabilities", "held", "Hold any capability", "capabilities", way="held"),
    _program("syscall.capabilities", "raise", "Raise capabilities", "capabilities", way="raise"),
    _program("syscall.capabilities", "mount", "Mount a file system", "mounts", way="mount"),
    _program("syscall.capabilities", "unmount", "Take a mask or mount away", "mounts", way="umount"),
    _program("syscall.capabilities", "mount-new-api", "Mount by the new mount calls", "mounts", way="new-api"),
    _program("syscall.capabilities", "chroot", "Change the root directory", "mounts", way="chroot"),
    _program("syscall.capabilities", "pivot-root", "Swap the root mount", "mounts", way="pivot"),
    _program("syscall.capabilities", "clock", "Set the clock", "settime", outside=CALLER),
    _program("syscall.capabilities", "real-time", "Take real-time priority", "rights", outside=CALLER, ways="realtime"),
    _program(
        "syscall.capabilities",
        "fair-share",
        "Take a better priority or raise a hard limit",
        "rights",
        outside=CALLER,
        ways="nice,ioprio,limit",
    ),
)

_PRIVILEGES: Final = (
    _program("syscall.no-new-privileges", "mark", "Find that exec may gain rights", "no_new_privs", outside=HOST),
    _program(
        "syscall.no-new-privileges",
        "system-setuid",
        "Run the system's setuid programs",
        "setuid_programs",
        outside=HOST,
    ),
    _program(
        "syscall.no-new-privileges",
        "setuid",
        "Run a program that is setuid to another user",
        "gain",
        outside=Outside(place=Place.HOST, arguments={"path": "{setuid}"}),
        path="/mnt/granted/setuid",
    ),
    _program(
        "syscall.no-new-privileges",
        "file-capabilities",
        "Run a program with file capabilities",
        "gain",
        outside=Outside(place=Place.HOST, arguments={"path": "{capable}"}),
        path="/mnt/granted/capable",
    ),
)


def _nested(way: str, title: str, outside: Outside = BARE) -> Probe:
    return _program("syscall.no-nested-namespaces", way, title, "namespaces", outside=outside, way=way, kind="net")


_NAMESPACES: Final = (
    _nested("unshare", "Make namespaces by unshare"),
    _nested("clone", "Make namespaces by clone"),
    _nested("clone3", "Make namespaces by clone3"),
    _nested("chain", "Become root in a namespace and mount"),
    _nested("setns", "Enter other namespaces", POWERFUL),
)

_TERMINALS: Final = (
    _program("syscall.terminal-injection", "type", "Type into a terminal", "terminal", outside=BARE, what="sti"),
    _program(
        "syscall.terminal-injection",
        "type-high-bits",
        "Type into a terminal with rubbish in the request's upper half",
        "terminal",
        outside=BARE,
        what="sti",
        high="1",
    ),
    _program(
        "syscall.terminal-injection",
        "console",
        "Drive the console by TIOCLINUX",
        "terminal",
        outside=BARE,
        what="linux",
    ),
)

KERNEL: Final = (*_SURFACE, *_CAPABILITIES, *_PRIVILEGES, *_NAMESPACES, *_TERMINALS)
"""All probes of syscall.*."""
