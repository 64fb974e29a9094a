# Reach rarely needed system calls. The arguments are wrong on purpose: whoever hears "bad address" or
# "bad argument" got through, whoever hears "not permitted" did not.
import ctypes

PAGE = ctypes.create_string_buffer(4096)
BAD = 1  # no address
CALLS = {
    "io_uring_setup": lambda: reached("io_uring_setup", 1, BAD),
    "io_uring_enter": lambda: reached("io_uring_enter", -1, 0, 0, 0, 0, 0),
    "bpf": lambda: reached("bpf", 7, BAD, 64),
    "userfaultfd": lambda: reached("userfaultfd", 1),
    "perf_event_open": lambda: reached("perf_event_open", BAD, 0, -1, -1, 0),
    "add_key": lambda: reached("add_key", b"user", b"probe", b"x", 1, -2),
    "request_key": lambda: reached("request_key", b"user", b"probe-none", 0, 0),
    "keyctl": lambda: reached("keyctl", 0, -3, 0),
    "kexec_load": lambda: reached("kexec_load", 0, 1000, 0, 0),
    "kexec_file_load": lambda: reached("kexec_file_load", -1, -1, 0, 0, 1 << 30),
    "init_module": lambda: reached("init_module", BAD, 16, BAD),
    "finit_module": lambda: reached("finit_module", -1, BAD, 0),
    "delete_module": lambda: reached("delete_module", BAD, 0),
    "reboot": lambda: reached("reboot", 0, 0, 0, 0),
    "swapon": lambda: reached("swapon", BAD, 0),
    "swapoff": lambda: reached("swapoff", BAD),
    "acct": lambda: reached("acct", BAD),
    "syslog": lambda: reached("syslog", 10, 0, 0),
    "iopl": lambda: reached("iopl", 0x7F),
    "ioperm": lambda: reached("ioperm", 1 << 20, 1, 1),
    "modify_ldt": lambda: reached("modify_ldt", 0x7F, 0, 0),
    "fanotify_init": lambda: reached("fanotify_init", 0x200, 0),
    "name_to_handle_at": lambda: reached("name_to_handle_at", -100, BAD, BAD, BAD, 0),
    "open_by_handle_at": lambda: reached("open_by_handle_at", -100, BAD, 0),
    "quotactl": lambda: reached("quotactl", 0x7F << 8, 0, 0, 0),
    "kcmp": lambda: reached("kcmp", os.getpid(), os.getpid(), 0, 0, 1),
    "process_vm_readv": lambda: reached("process_vm_readv", os.getpid(), 0, 0, 0, 0, 0),
    "process_madvise": lambda: reached("process_madvise", -1, 0, 0, 0, 0),
    "pidfd_getfd": lambda: reached("pidfd_getfd", -1, 0, 0),
    "ptrace": lambda: reached("ptrace", 0, 0, 0, 0),
    "personality": lambda: reached("personality", 0x0040000),
    "lookup_dcookie": lambda: reached("lookup_dcookie", 0, BAD, 16),
    "move_pages": lambda: reached("move_pages", 0, 1, BAD, 0, BAD, 0),
    "mbind": lambda: reached("mbind", BAD, 4096, 99, 0, 0, 0),
    "clock_settime": lambda: reached("clock_settime", 0, BAD),
    "settimeofday": lambda: reached("settimeofday", 0, 0),
    "adjtimex": lambda: reached("adjtimex", BAD),
    "uselib": lambda: reached("uselib", BAD),
    "seccomp": lambda: reached("seccomp", 0x7F, 0, 0),
    "vmsplice": lambda: reached("vmsplice", -1, 0, 0, 0),
    "remap_file_pages": lambda: reached("remap_file_pages", 0, 0, 1, 0, 0),
    "memfd_secret": lambda: reached("memfd_secret", 0x7F),
    "io_setup": lambda: reached("io_setup", 0, BAD),
    "statmount": lambda: reached("statmount", BAD, BAD, 0, 0),
    "listmount": lambda: reached("listmount", BAD, BAD, 0, 0),
    "clone3": lambda: reached("clone3", BAD, 0),
    "syncfs": lambda: reached("syncfs", -1),
    "setns": lambda: reached("setns", -1, 0),
}
names = [name for name in ARG["names"].split(",") if name in NR]
if not names:
    inconclusive("this architecture has none of %s" % ARG["names"])
attempts([(name, CALLS[name]) for name in names])
