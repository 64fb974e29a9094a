# Change the view of the file system: mount, bind, move, unmount, the new mount calls, chroot, pivot_root.
import ctypes

base = ARG.get("folder", ".")
one = os.path.join(base, "probe-mnt-%d" % os.getpid())
os.mkdir(one)
path = os.path.abspath(one).encode()


def tmpfs():
    call("mount", b"tmpfs", path, b"tmpfs", 0, 0)
    return "tmpfs mounted"


def bind():
    call("mount", b"/", path, 0, 4096, 0)
    return "bind mounted"


def proc():
    call("mount", b"proc", path, b"proc", 0, 0)
    return "proc mounted"


def private():
    call("mount", 0, b"/", 0, (1 << 18) | (1 << 14), 0)
    return "propagation changed"


def detach():
    call("umount2", b"/proc", 2)
    return "/proc taken away"


def new_mount():
    fs = call("fsopen", b"tmpfs", 0)
    call("fsconfig", fs, 6, 0, 0, 0)
    mount = call("fsmount", fs, 0, 0)
    call("move_mount", mount, b"", -100, path, 4)
    return "mounted by fsopen"


def tree():
    fd = call("open_tree", -100, b"/", 1)
    call("move_mount", fd, b"", -100, path, 4)
    return "tree cloned and attached"


def root():
    os.chroot(one)
    return "chroot done"


def pivot():
    call("mount", b"tmpfs", path, b"tmpfs", 0, 0)
    os.mkdir(os.path.join(one, "old"))
    call("pivot_root", path, path + b"/old")
    return "root pivoted"


def setattr_call():
    attr = (ctypes.c_uint64 * 4)(0, 0, 1 << 18, 0)
    call("mount_setattr", -100, b"/", 0, attr, 32)
    return "mount attributes changed"


WAYS = {
    "mount": [tmpfs, bind, proc, private],
    "umount": [detach],
    "new-api": [new_mount, tree, setattr_call],
    "chroot": [root],
    "pivot": [pivot],
}
attempts([(way.__name__, lambda way=way: in_child(way)) for way in WAYS[ARG["way"]]])
