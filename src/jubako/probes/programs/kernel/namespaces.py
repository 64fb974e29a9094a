# Make or enter namespaces: the door to most of the kernel's attack surface.
import ctypes

KINDS = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}


def unshare(flags):
    call("unshare", flags)
    return "unshared"


def clone(flags):
    pid = call("clone", flags | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "cloned"


def clone3(flags):
    args = (ctypes.c_uint64 * 11)(flags, 0, 0, 0, 17)
    pid = call("clone3", args, 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "cloned"


def both():
    # As a browser or a container engine would: a user namespace, then everything that it opens.
    call("unshare", KINDS["user"])
    call("unshare", KINDS["mount"] | KINDS["net"])
    call("mount", b"tmpfs", b"/", b"tmpfs", 0, 0)
    return "mounted in a namespace of its own"


def enter():
    fd = os.open("/proc/1/ns/" + ARG.get("kind", "user"), os.O_RDONLY)
    call("setns", fd, 0)
    return "entered"


def enter_pidfd():
    fd = call("pidfd_open", int(ARG.get("pid", "1")), 0)
    call("setns", fd, KINDS["mount"] | KINDS["pid"])
    return "entered"


way = ARG["way"]
if way == "unshare":
    pairs = [(kind, lambda flag=flag: in_child(lambda: unshare(flag))) for kind, flag in KINDS.items()]
elif way == "clone":
    pairs = [(kind, lambda flag=flag: in_child(lambda: clone(flag))) for kind, flag in KINDS.items() if kind != "time"]
elif way == "clone3":
    pairs = [(kind, lambda flag=flag: in_child(lambda: clone3(flag))) for kind, flag in KINDS.items()]
elif way == "chain":
    pairs = [("chain", lambda: in_child(both))]
else:
    pairs = [("setns", lambda: in_child(enter)), ("pidfd", lambda: in_child(enter_pidfd))]
attempts(pairs)
