# Reach one absolute path by every spelling that has ever fooled a sandbox.
path, mark = ARG["path"], ARG["mark"].encode()


def read(name, dir_fd=None):
    fd = os.open(name, os.O_RDONLY, dir_fd=dir_fd)
    try:
        return "read the mark" if mark in os.read(fd, 4096) else ""
    finally:
        os.close(fd)


def climb():
    fd = os.open(".", os.O_RDONLY)
    for _ in range(64):
        fd = os.open("..", os.O_RDONLY, dir_fd=fd)
    return read(path.lstrip("/"), fd)


def link():
    name = "probe-link-%d" % os.getpid()
    os.symlink(path, name)
    try:
        return read(name)
    finally:
        os.unlink(name)


def by_fd():
    fd = os.open("/", os.O_PATH)
    return read("/proc/self/fd/%d/..%s" % (fd, path))


pids = os.listdir("/proc") if os.path.isdir("/proc") else []
roots = ["/proc/%s/%s" % (pid, what) for pid in pids if pid.isdigit() for what in ("root", "cwd")][:400]
attempts(
    [
        ("plain", lambda: read(path)),
        ("dots", lambda: read("../" * 60 + path.lstrip("/"))),
        ("climb", climb),
        ("link", link),
        ("fd", by_fd),
        ("self-root", lambda: read("/proc/self/root" + path)),
        ("thread-root", lambda: read("/proc/thread-self/root" + path)),
    ]
    + [(root, lambda root=root: read(root + path)) for root in roots]
)
