# Put a key into a keyring and read it back.
import ctypes


def act(ring):
    key = call("add_key", b"user", b"probe-key", b"mark", 4, ring)
    buffer = ctypes.create_string_buffer(16)
    call("keyctl", 11, key, buffer, 16)
    call("keyctl", 3, key)
    return "kept and read back %r" % buffer.value


attempts([("process", lambda: act(-2)), ("session", lambda: act(-3)), ("user", lambda: act(-4))])
