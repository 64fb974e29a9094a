# Switch a terminal to another line discipline: much kernel code that nobody else needs.
import ctypes


def act(number):
    leader, follower = os.openpty()
    call("ioctl", follower, 0x5423, ctypes.byref(ctypes.c_int(number)))
    return "line discipline %d set" % number


attempts([("discipline %d" % number, lambda number=number: in_child(lambda: act(number))) for number in (0, 27, 21)])
