# Talk to a service of the host over a unix socket, by path or abstract name.
import socket


def act(address):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        sock.connect(address)
        sock.sendall(b"hello")
        return "answered" if sock.recv(64) else ""


if ARG["kind"] == "abstract":
    attempts([("abstract", lambda: act("\0" + ARG["name"]))])
well_known = [
    "/run/docker.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/containerd/containerd.sock",
]
attempts([(path, lambda path=path: act(path)) for path in [ARG["name"], *well_known]])
