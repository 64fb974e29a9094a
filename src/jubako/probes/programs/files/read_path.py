# Read a path that holds a mark, or that has the content of one of these digests, or any bytes at all.
mark = ARG.get("mark", "").encode()
same = ARG.get("same", "").split(",") if ARG.get("same") else []


def act(path):
    if os.path.isdir(path):
        names = os.listdir(path)
        return "listed %d entries" % len(names) if names and not mark else ""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    data = os.read(fd, 4096)
    os.close(fd)
    if mark:
        return "read the mark" if mark in data else ""
    if same:
        import hashlib

        return "read what the host has" if hashlib.sha256(data).hexdigest() in same else ""
    return "read %d bytes" % len(data) if data else ""


attempts([(path, lambda path=path: act(path)) for path in ARG["paths"].split(",")])
