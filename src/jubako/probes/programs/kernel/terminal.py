# Type into a terminal: TIOCSTI, or TIOCLINUX, also with the upper half of the request number set to rubbish.
import ctypes

TIOCSTI, TIOCLINUX = 0x5412, 0x541C
number = {"sti": TIOCSTI, "linux": TIOCLINUX}[ARG["what"]] | (int(ARG.get("high", "0")) << 32)


def own_terminal():
    leader, follower = os.openpty()
    os.setsid()
    import fcntl

    fcntl.ioctl(follower, 0x540E, 0)  # TIOCSCTTY
    return leader, follower


def type_in():
    leader, follower = own_terminal()
    call("ioctl", follower, ctypes.c_ulong(number), ctypes.create_string_buffer(b"x"))
    if number & 0xFFFFFFFF == TIOCSTI:
        call("ioctl", follower, ctypes.c_ulong(number), ctypes.create_string_buffer(b"\n"))
        return "typed" if os.read(follower, 2) == b"x\n" else ""
    return "accepted"


def on_input():
    try:
        call("ioctl", 0, ctypes.c_ulong(number), ctypes.create_string_buffer(b"x"))
    except OSError as error:
        if error.errno in REFUSED:
            raise
        return "reached the kernel (%s)" % word(error)
    return "accepted"


pairs = [("terminal", lambda: in_child(type_in))]
if ARG["what"] == "linux":
    pairs.append(("input", lambda: in_child(on_input)))
attempts(pairs)
