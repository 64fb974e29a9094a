# Attach to the host's System V shared memory, by key and by every id.
import ctypes

mark = ARG["mark"].encode()


def attach(number):
    library = libc()
    library.shmat.restype = ctypes.c_void_p
    address = library.shmat(number, None, 0o10000)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "")
    return "read the mark" if mark in ctypes.string_at(address, len(mark)) else ""


def by_key():
    return attach(call("shmget", int(ARG["key"]), 0, 0))


def listed():
    with open("/proc/sysvipc/shm") as file:
        lines = file.readlines()[1:]
    for line in lines[:200]:
        try:
            got = attach(int(line.split()[1]))
        except OSError:
            continue
        if got:
            return got
    return ""


attempts([("key", by_key), ("id", lambda: attach(int(ARG["id"]))), ("listed", listed)])
