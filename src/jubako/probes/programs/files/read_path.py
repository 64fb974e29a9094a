# Read a path that holds a mark, or any bytes at all when no mark is given.
mark = ARG.get("mark", "").encode()


def act(path):
    if os.path.isdir(path):
        names = os.listdir(path)
        return "listed %d entries" % len(names) if names and not mark else ""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    data = os.read(fd, 4096)
    os.close(fd)
    if mark:
        return "read the mark" if mark in data else ""
    return "read %d bytes" % len(data) if data else ""


attempts([(path, lambda path=path: act(path)) for path in ARG["paths"].split(",")])
