# Ping: by a raw socket, then by an unprivileged ICMP socket.
import socket
import struct


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def act(kind):
    head = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
    packet = struct.pack("!BBHHH", 8, 0, checksum(head), 77, 1)
    with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(1.0)
        sock.sendto(packet, (ARG["address"], 0))
        return "answered" if sock.recv(512) else ""


attempts([("raw", lambda: act(socket.SOCK_RAW)), ("datagram", lambda: act(socket.SOCK_DGRAM))])
