# Make a read-only mount writable again, or take it away.
import ctypes

MS_RDONLY, MS_REMOUNT, MS_BIND, MNT_DETACH, ATTR_RDONLY = 1, 32, 4096, 2, 1


def writable(path):
    return "" if os.statvfs(path).f_flag & os.ST_RDONLY else "writable now"


def remount(path):
    call("mount", 0, path.encode(), 0, MS_REMOUNT | MS_BIND, 0)
    return writable(path)


def setattr_call(path):
    attr = (ctypes.c_uint64 * 4)(0, ATTR_RDONLY, 0, 0)
    call("mount_setattr", -100, path.encode(), 0, attr, ctypes.sizeof(attr))
    return writable(path)


pairs = []
for path in ARG["paths"].split(","):
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        inconclusive("%s is not read-only to begin with" % path)
    pairs.append((path, lambda path=path: in_child(lambda: remount(path))))
    pairs.append((path, lambda path=path: in_child(lambda: setattr_call(path))))
attempts(pairs)
