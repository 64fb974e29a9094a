# Ask for the right to set the clock, by calls that would change nothing.
import ctypes


def bad_tick():
    # With the right, a tick of 0 is a bad argument; without it, the call is not permitted.
    buffer = ctypes.create_string_buffer(512)
    ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint))[0] = 0x4000
    return reached("adjtimex", buffer)


attempts([("settimeofday", lambda: reached("settimeofday", 0, 0)), ("adjtimex", bad_tick)])
