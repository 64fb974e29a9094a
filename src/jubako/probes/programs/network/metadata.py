# Ask the cloud's metadata service for credentials.
import socket


def act(address, family):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        sock.connect((address, 80))
        sock.sendall(b"GET /latest/meta-data/iam/security-credentials/ HTTP/1.0\r\n\r\n")
        return "answered %r" % sock.recv(40)


attempts([("169.254.169.254", lambda: act("169.254.169.254", socket.AF_INET))])
