# Read another process's memory.
import ctypes

pid, mark = int(ARG["pid"]), ARG.get("mark", "").encode()
address = int(ARG.get("address", "0"))


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


def somewhere():
    with open("/proc/%d/maps" % pid) as file:
        return int(file.readline().split("-")[0], 16)


def check(data):
    if not mark:
        return "read %d bytes" % len(data) if data else ""
    return "read the mark" if mark in data else ""


def vm():
    buffer = ctypes.create_string_buffer(64)
    local = Vector(ctypes.addressof(buffer), 64)
    remote = Vector(address or somewhere(), 64)
    count = call("process_vm_readv", pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return check(buffer.raw[:count])


def mem():
    fd = os.open("/proc/%d/mem" % pid, os.O_RDONLY)
    return check(os.pread(fd, 64, address or somewhere()))


def write():
    os.close(os.open("/proc/%d/mem" % pid, os.O_WRONLY))
    return "opened for writing"


WAYS = {"vm": [("process_vm_readv", vm)], "mem": [("mem", mem), ("mem-write", write)]}
attempts(WAYS[ARG["way"]])
