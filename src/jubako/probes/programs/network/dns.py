# Bring a mark out in the name of a DNS query: to a given server, and to those that resolv.conf names.
import socket
import struct

servers = [(ARG["server"], int(ARG["port"]))]


def act(server):
    name = b"".join(bytes([len(part)]) + part for part in (ARG["mark"][:60].encode(), b"example", b"invalid"))
    query = struct.pack("!6H", 4660, 256, 1, 0, 0, 0) + name + b"\0" + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        sock.connect(server)
        sock.send(query)
        return "answered" if sock.recv(512) else ""


attempts([(server[0], lambda server=server: act(server)) for server in servers])
