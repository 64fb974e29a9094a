# Open paths for reading or writing; nothing is written. A file that covers a device is no device.
import stat

flags = {"r": os.O_RDONLY, "w": os.O_WRONLY}[ARG["mode"]] | os.O_NONBLOCK | getattr(os, "O_NOCTTY", 0)


def act(path):
    fd = os.open(path, flags)
    status = os.fstat(fd)
    os.close(fd)
    covered = path.startswith("/dev/") and stat.S_ISREG(status.st_mode)
    return "" if covered or status.st_rdev == 0x103 else "opened (%s)" % ARG["mode"]


attempts([(path, lambda path=path: act(path)) for path in ARG["paths"].split(",")])
