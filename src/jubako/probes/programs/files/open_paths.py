# Open paths for reading or writing; nothing is written.
flags = {"r": os.O_RDONLY, "w": os.O_WRONLY}[ARG["mode"]] | os.O_NONBLOCK | getattr(os, "O_NOCTTY", 0)


def act(path):
    fd = os.open(path, flags)
    same = os.fstat(fd).st_rdev == 0x103
    os.close(fd)
    return "" if same else "opened (%s)" % ARG["mode"]


attempts([(path, lambda path=path: act(path)) for path in ARG["paths"].split(",")])
