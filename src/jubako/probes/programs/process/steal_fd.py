# Take open descriptors out of other processes: by pidfd_getfd, and by /proc.
mark = ARG.get("mark", "").encode()
pid = int(ARG["pid"])


def useful(fd):
    if not mark:
        return "took one"
    try:
        return "read the mark" if mark in os.pread(fd, 64, 0) else ""
    except OSError:
        return ""


def by_pidfd():
    handle = call("pidfd_open", pid, 0)
    last = None
    for number in range(3, 32):
        try:
            fd = call("pidfd_getfd", handle, number, 0)
        except OSError as error:
            last = error if error.errno != errno.EBADF else last
            continue
        got = useful(fd)
        if got:
            return got
    if last:
        raise last
    return ""


def by_proc():
    folder = "/proc/%d/fd" % pid
    last = None
    for name in os.listdir(folder):
        if int(name) < 3:
            continue
        path = os.path.join(folder, name)
        if not mark:
            target = os.readlink(path)
            if target.startswith(("/", "anon_inode:", "pipe:")):
                continue
            # On Linux whoever sees a socket there may also take it; elsewhere it has to be opened.
            if not target.startswith("socket:"):
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            return "reaches %s -> %s" % (name, target)
        try:
            got = useful(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            last = error
            continue
        if got:
            return got
    if last:
        raise last
    return ""


WAYS = {"pidfd": [("pidfd_getfd", by_pidfd)], "proc": [("proc", by_proc)]}
attempts(WAYS[ARG["way"]])
