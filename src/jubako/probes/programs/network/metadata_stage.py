# Stage: in a network namespace of its own, the metadata address on lo with somebody listening.
import fcntl
import socket
import struct

_sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
_address = struct.pack("!HH4s8s", 0, 0, socket.inet_aton("169.254.169.254"), b"")
_address = struct.pack("=H", socket.AF_INET) + _address[2:]
try:
    fcntl.ioctl(_sock, 0x8916, struct.pack("16s16s8x", b"lo:1", _address))  # SIOCSIFADDR
    _server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    _server.bind(("169.254.169.254", 80))
    _server.listen(1)
except OSError as _error:
    inconclusive("the metadata address could not be played (%s)" % word(_error))
if os.fork() == 0:
    _server.settimeout(5)
    _peer = _server.accept()[0]
    _peer.recv(100)
    _peer.sendall(b"HTTP/1.0 200 OK\r\n\r\nrole")
    os._exit(0)
_server.close()
