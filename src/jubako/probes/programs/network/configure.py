# Give the loopback a second address: the first step to build a network.
import fcntl
import socket
import struct


def act():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8s", 0, socket.inet_aton("198.51.100.7"), b"")
        fcntl.ioctl(sock, 0x8916, struct.pack("16s16s8x", b"lo:7", address))
        return "address added"


def tunnel():
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"probe0", 0x1001))
    return "tunnel made"


attempts([("address", act), ("tunnel", tunnel)])
