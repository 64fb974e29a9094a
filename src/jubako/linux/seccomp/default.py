"""The default profile: an allowlist that names every known system call once, each group with its reason.

Enough for compilers, interpreters with JITs, shells, build tools and data libraries; nothing that
widens rights, reaches other processes' memory, or opens a rarely used and often broken part of the kernel.
"""

from __future__ import annotations

from typing import Final

from jubako.linux.seccomp.model import ArgumentRule, Case, Group, Profile, Test, Verdict

__all__ = ["DEFAULT"]


def _allow(name: str, reason: str, syscalls: str) -> Group:
    return Group(name, reason, tuple(syscalls.split()))


def _refuse(name: str, reason: str, syscalls: str, verdict: Verdict = Verdict.EPERM) -> Group:
    return Group(name, reason, tuple(syscalls.split()), verdict)


_ALLOWED: Final = (
    _allow(
        "file-io", "reading and writing what is already open",
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile copy_file_range "
        "splice tee fsync fdatasync sync_file_range readahead fadvise64 fallocate ftruncate truncate flock",
    ),
    _allow(
        "descriptors", "descriptors of the process itself",
        "close close_range dup dup2 dup3 fcntl pipe pipe2 eventfd eventfd2 memfd_create",
    ),
    _allow(
        "file-tree", "names, links and attributes; mounts and permissions decide what they reach",
        "open openat openat2 creat stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat "
        "getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link "
        "linkat symlink symlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat "
        "utimensat umask statfs fstatfs ustat",
    ),
    _allow(
        "extended-attributes", "attributes of own files; privileged names need capabilities that nobody inside has",
        "getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr removexattr "
        "lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat",
    ),
    _allow("watching", "changes of own files", "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch"),
    _allow(
        "memory", "the process's own memory; JIT compilers need executable pages",
        "brk mmap munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall pkey_alloc "
        "pkey_free pkey_mprotect mseal map_shadow_stack membarrier",
    ),
    _allow(
        "processes", "making, running and awaiting processes of the sandbox",
        "fork vfork execve execveat exit exit_group wait4 waitid getpid getppid gettid getpgid setpgid getpgrp getsid "
        "setsid pidfd_open set_tid_address arch_prctl rseq set_robust_list get_robust_list restart_syscall",
    ),
    _allow(
        "signals", "signals to processes of the sandbox; the pid namespace hides all others",
        "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal rt_sigaction rt_sigprocmask "
        "rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack signalfd signalfd4 pause",
    ),
    _allow(
        "identity", "asking for and dropping identities; gaining one needs capabilities that nobody inside has",
        "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid "
        "setresgid setfsuid setfsgid setgroups capget capset",
    ),
    _allow(
        "scheduling", "priorities within what limits allow",
        "sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler "
        "sched_setscheduler sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min "
        "sched_rr_get_interval getpriority ioprio_get ioprio_set getcpu",
    ),
    _allow("limits", "own resource limits, which can only fall", "getrlimit setrlimit prlimit64 getrusage times"),
    _allow(
        "locks-and-waiting", "locks between threads and waiting for descriptors",
        "futex futex_waitv futex_wake futex_wait futex_requeue poll ppoll select pselect6 epoll_create epoll_create1 "
        "epoll_ctl epoll_wait epoll_pwait epoll_pwait2",
    ),
    _allow(
        "time", "reading clocks and setting own timers",
        "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer setitimer timer_create "
        "timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime",
    ),
    _allow(
        "sockets", "use of sockets; which kinds can be made is ruled below",
        "bind connect listen accept accept4 getsockname getpeername getsockopt sendto recvfrom sendmsg recvmsg "
        "sendmmsg recvmmsg shutdown",
    ),
    _allow(
        "ipc", "System V and POSIX IPC of the sandbox's own IPC namespace",
        "shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink "
        "mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    ),
    _allow("system-facts", "facts about the machine that programs size themselves by", "uname sysinfo getrandom"),
    _allow(
        "landlock", "a program can only shut itself in further",
        "landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
    _allow(
        "probe-trampolines", "the kernel's own return path of a probe that the host has set; useless from elsewhere",
        "uretprobe uprobe",
    ),
)  # fmt: skip

_REFUSED: Final = (
    _refuse(
        "uninspectable", "the arguments lie in memory, where a filter can't see them; C libraries fall back to clone",
        "clone3", Verdict.ENOSYS,
    ),
    _refuse(
        "newer-queries", "callers have an older way; some tell of other mounts, namespaces or the shared page cache",
        "statmount listmount listns lsm_get_self_attr lsm_set_self_attr lsm_list_modules cachestat file_getattr "
        "file_setattr", Verdict.ENOSYS,
    ),
    _refuse("namespaces", "user namespaces open kernel code that only root could reach before", "unshare setns"),
    _refuse(
        "mounts", "no change of the file tree's make-up",
        "mount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick "
        "mount_setattr",
    ),
    _refuse("filters", "loading filter programs reaches the BPF compiler; the sandbox has its filter", "seccomp"),
    _refuse(
        "io-uring", "a second way to make system calls, past this filter; much exploited",
        "io_uring_setup io_uring_enter io_uring_register",
    ),
    _refuse(
        "old-aio", "little used, rarely watched",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    ),
    _refuse("bpf-and-perf", "programs and probes in the kernel", "bpf perf_event_open"),
    _refuse(
        "other-processes", "another process's memory and descriptors",
        "ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp process_madvise process_mrelease",
    ),
    _refuse("fault-handling", "lets a program hold the kernel in the middle of a copy; much exploited", "userfaultfd"),
    _refuse("hidden-memory", "memory that the host can't see", "memfd_secret"),
    _refuse("page-tricks", "rarely used ways into shared pages", "vmsplice remap_file_pages"),
    _refuse(
        "memory-placement", "NUMA placement, host-wide in effect; libraries do without",
        "mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages",
    ),
    _refuse("keyrings", "keys are not namespaced", "add_key request_key keyctl"),
    _refuse("file-handles", "opens files past the mounts", "name_to_handle_at open_by_handle_at"),
    _refuse("fanotify", "watches whole mounts", "fanotify_init fanotify_mark"),
    _refuse("host-wide-flush", "flushes every file system of the host", "sync syncfs"),
    _refuse(
        "administration", "acts on the whole machine",
        "reboot kexec_load kexec_file_load init_module finit_module delete_module swapon swapoff quotactl quotactl_fd "
        "acct syslog sethostname setdomainname vhangup sysfs",
    ),
    _refuse("clocks", "the clock is everybody's", "settimeofday clock_settime adjtimex clock_adjtime"),
    _refuse("x86-ports-and-segments", "raw hardware access and 16-bit segments", "iopl ioperm modify_ldt"),
    _refuse(
        "obsolete", "gone from current kernels or kept for ancient programs",
        "_sysctl afs_syscall create_module query_module get_kernel_syms getpmsg putpmsg lookup_dcookie nfsservctl "
        "security tuxcall uselib vserver epoll_ctl_old epoll_wait_old get_thread_area set_thread_area",
    ),
)  # fmt: skip

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, and NEWTIME, which lies in the exit signal's bits
# and which clone ignores today.
_NEW_NAMESPACE: Final = (
    0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00000080
)
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_RAW, _SOCK_SEQPACKET, _SOCK_PACKET = 1, 2, 3, 5, 10
_SOCK_TYPE: Final = 0xF  # the rest of the argument is SOCK_NONBLOCK and SOCK_CLOEXEC
_IPPROTO_TCP, _IPPROTO_UDP = 6, 17
_SOL_SOCKET: Final = 1
_SO_ATTACH: Final = (26, 50, 51, 52)  # SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, ..._EBPF
_TCP_ULP: Final = 31
_FILE_TYPE: Final = 0xF000
_PLAIN_NODES: Final = (0, 0x8000, 0x1000, 0xC000)  # none and regular file, FIFO, socket
_ANY_PERSONA: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, Linux32, either with UNAME26, "just asking"

_PRCTL_ALLOWED: Final = (
    1, 2,  # SET/GET_PDEATHSIG
    3, 4,  # GET/SET_DUMPABLE
    7, 8,  # GET/SET_KEEPCAPS: there are none to keep
    15, 16,  # SET/GET_NAME
    21, 23, 27,  # GET_SECCOMP, CAPBSET_READ, GET_SECUREBITS
    24, 47,  # CAPBSET_DROP, CAP_AMBIENT: with empty sets they can only ask and drop
    29, 30,  # SET/GET_TIMERSLACK
    34,  # MCE_KILL_GET
    36, 37,  # SET/GET_CHILD_SUBREAPER
    38, 39,  # SET/GET_NO_NEW_PRIVS
    40,  # GET_TID_ADDRESS
    41, 42,  # SET/GET_THP_DISABLE
    50, 51, 63, 64,  # SVE and SME vector lengths (aarch64)
    52, 53,  # GET/SET_SPECULATION_CTRL: of the caller itself
    54, 55, 56, 60, 61,  # pointer authentication and tagged addresses (aarch64)
    65, 66,  # SET/GET_MDWE: only tightens
    74, 75, 76,  # shadow stacks (aarch64)
    78,  # FUTEX_HASH
    0x53564D41,  # SET_VMA: names for anonymous memory
    0x41555856,  # GET_AUXV
)  # fmt: skip
_PRCTL_REFUSED: Final = (
    22,  # SET_SECCOMP
    28,  # SET_SECUREBITS
    31, 32,  # TASK_PERF_EVENTS_DISABLE/ENABLE
    35,  # SET_MM
    59,  # SET_SYSCALL_USER_DISPATCH
    62,  # SCHED_CORE
    67, 68,  # SET/GET_MEMORY_MERGE: merged pages are a side channel between sandboxes
    0x59616D61,  # SET_PTRACER
)  # fmt: skip

_RULES: Final = (
    ArgumentRule(
        "clone-flags", "threads and processes, but no namespaces", ("clone",),
        (Case((Test(0, (0,), mask=_NEW_NAMESPACE),), Verdict.ALLOW),),
        Verdict.EPERM, "without CLONE_NEW* flags",
    ),  # control: syscall.no-nested-namespaces
    ArgumentRule(
        "terminal-ioctls", "no typing into the terminal that a person reads, no line disciplines", ("ioctl",),
        (Case((Test(1, (_TIOCSTI, _TIOCLINUX, _TIOCSETD)),), Verdict.EPERM),),
        Verdict.ALLOW, "except TIOCSTI, TIOCLINUX and TIOCSETD",
    ),  # control: syscall.terminal-injection
    ArgumentRule(
        "socket-families", "local and internet sockets; other families are large, rarely watched kernel code",
        ("socket",),
        (
            Case((Test(0, (_AF_UNIX, _AF_INET, _AF_INET6), negate=True),), Verdict.EAFNOSUPPORT),
            Case((Test(1, (_SOCK_RAW, _SOCK_PACKET), mask=_SOCK_TYPE),), Verdict.EPERM),
            Case((
                Test(0, (_AF_UNIX,)),
                Test(1, (_SOCK_STREAM, _SOCK_DGRAM, _SOCK_SEQPACKET), mask=_SOCK_TYPE),
            ), Verdict.ALLOW),
            Case((Test(1, (_SOCK_STREAM,), mask=_SOCK_TYPE), Test(2, (0, _IPPROTO_TCP))), Verdict.ALLOW),
            Case((Test(1, (_SOCK_DGRAM,), mask=_SOCK_TYPE), Test(2, (0, _IPPROTO_UDP))), Verdict.ALLOW),
            Case((Test(1, (_SOCK_STREAM, _SOCK_DGRAM), mask=_SOCK_TYPE, negate=True),), Verdict.ESOCKTNOSUPPORT),
        ),
        Verdict.EPROTONOSUPPORT, "AF_UNIX stream, datagram, seqpacket; AF_INET and AF_INET6 TCP and UDP",
    ),  # control: net.sockets
    ArgumentRule(
        "socket-pairs", "pairs of local sockets only", ("socketpair",),
        (
            Case((Test(0, (_AF_UNIX,), negate=True),), Verdict.EAFNOSUPPORT),
            Case((Test(1, (_SOCK_STREAM, _SOCK_DGRAM, _SOCK_SEQPACKET), mask=_SOCK_TYPE),), Verdict.ALLOW),
        ),
        Verdict.ESOCKTNOSUPPORT, "AF_UNIX stream, datagram, seqpacket",
    ),  # control: net.sockets
    ArgumentRule(
        "socket-options", "no filter programs on sockets, no kernel TLS", ("setsockopt",),
        (
            Case((Test(1, (_SOL_SOCKET,)), Test(2, _SO_ATTACH)), Verdict.EPERM),
            Case((Test(1, (_IPPROTO_TCP,)), Test(2, (_TCP_ULP,))), Verdict.EPERM),
        ),
        Verdict.ALLOW, "except SO_ATTACH_* and TCP_ULP",
    ),
    ArgumentRule(
        "priorities", "no better share of the processors than others get; gVisor would allow it", ("setpriority",),
        (Case((Test(2, (0x80000000,), mask=0x80000000),), Verdict.EPERM),),
        Verdict.ALLOW, "not below 0",
    ),
    ArgumentRule(
        "personality", "no personality that weakens memory protection", ("personality",),
        (Case((Test(0, _ANY_PERSONA),), Verdict.ALLOW),),
        Verdict.EPERM, "Linux and Linux32, with or without UNAME26; queries",
    ),
    ArgumentRule(
        "prctl-options", "what a process may set about itself", ("prctl",),
        (Case((Test(0, _PRCTL_ALLOWED),), Verdict.ALLOW), Case((Test(0, _PRCTL_REFUSED),), Verdict.EPERM)),
        # EINVAL is what an older kernel says, and what programs expect.
        Verdict.EINVAL, "listed harmless options; unknown ones get EINVAL",
    ),
    ArgumentRule(
        "device-nodes", "files, FIFOs and sockets, but no devices", ("mknod",),
        (Case((Test(1, _PLAIN_NODES, mask=_FILE_TYPE),), Verdict.ALLOW),),
        Verdict.EPERM, "no character or block devices",
    ),  # control: fs.devices
    ArgumentRule(
        "device-nodes-at", "files, FIFOs and sockets, but no devices", ("mknodat",),
        (Case((Test(2, _PLAIN_NODES, mask=_FILE_TYPE),), Verdict.ALLOW),),
        Verdict.EPERM, "no character or block devices",
    ),  # control: fs.devices
)  # fmt: skip

DEFAULT: Final = Profile("default", groups=_ALLOWED + _REFUSED, rules=_RULES)
"""The profile that every process-level sandbox starts from."""  # control: syscall.allowlist
