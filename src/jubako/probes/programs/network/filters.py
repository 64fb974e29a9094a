# Load programs into the kernel through socket options.
import ctypes
import socket
import struct


def attach():
    code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0xFFFF))
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(code))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 26, program)
        return "filter attached"


def tls():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, 31, b"tls")
        except OSError as error:
            if error.errno in REFUSED:
                raise
            return "reached the kernel (%s)" % word(error)
        return "accepted"


attempts([("filter", attach), ("tls", tls)])
