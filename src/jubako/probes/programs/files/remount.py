# Make a read-only mount writable again, or take it away.
import ctypes

MS_RDONLY, MS_REMOUNT, MS_BIND, MNT_DETACH, ATTR_RDONLY = 1, 32, 4096, 2, 1


def readonly(path):
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return True
    # Not every kernel tells by a flag.
    place = os.path.join(path, "open")
    name = os.path.join(place if os.path.isdir(place) else path, "probe-%d" % os.getpid())
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        return error.errno in (errno.EROFS, errno.EACCES)
    os.unlink(name)
    return False


def writable(path):
    return "" if readonly(path) else "writable now"


def remount(path):
    call("mount", 0, path.encode(), 0, MS_REMOUNT | MS_BIND, 0)
    return writable(path)


def setattr_call(path):
    attr = (ctypes.c_uint64 * 4)(0, ATTR_RDONLY, 0, 0)
    call("mount_setattr", -100, path.encode(), 0, attr, ctypes.sizeof(attr))
    return writable(path)


pairs = []
for path in ARG["paths"].split(","):
    if not readonly(path):
        inconclusive("%s is not read-only to begin with" % path)
    pairs.append((path, lambda path=path: in_child(lambda: remount(path))))
    pairs.append((path, lambda path=path: in_child(lambda: setattr_call(path))))
attempts(pairs)
