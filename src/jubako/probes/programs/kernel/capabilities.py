# Hold, raise or inherit capabilities.
import ctypes


def held():
    with open("/proc/self/status") as file:
        caps = {line.split(":")[0]: int(line.split(":")[1], 16) for line in file if line.startswith("Cap")}
    some = ["%s=%x" % item for item in caps.items() if item[1] and item[0] != "CapBnd"]
    return "holds " + " ".join(some) if some else ""


def bounding():
    with open("/proc/self/status") as file:
        bound = [int(line.split(":")[1], 16) for line in file if line.startswith("CapBnd")][0]
    return "bounding set %x" % bound if bound else ""


def raised():
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(0xFFFFFFFF, 0xFFFFFFFF, 0, 0x1FF, 0x1FF, 0)
    call("capset", header, data)
    return "capset accepted"


def ambient():
    call("prctl", 47, 2, 21, 0, 0)
    return "ambient raised"


WAYS = {
    "held": [("held", held), ("bounding", bounding)],
    "raise": [("capset", lambda: in_child(raised)), ("ambient", lambda: in_child(ambient))],
}
attempts(WAYS[ARG["way"]])
