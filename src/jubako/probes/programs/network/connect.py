# Bring a mark out over TCP or UDP, and hear an answer.
import socket

mark = ARG["mark"].encode()


def act(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if ARG["kind"] == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as sock:
        sock.settimeout(1.0)
        sock.connect((address, int(ARG["port"])))
        sock.sendall(mark)
        return "answered" if sock.recv(64) else ""


attempts([(address, lambda address=address: act(address)) for address in ARG["addresses"].split(",")])
