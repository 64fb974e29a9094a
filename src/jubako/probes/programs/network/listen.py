# Be reachable from the host: listen on every address, tell the port, wait to be called.
import socket

try:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
except OSError as error:
    contained("no socket can be made (%s)" % word(error))
with made as sock:
    sock.bind(("0.0.0.0", 0))
    sock.listen(1)
    sock.settimeout(float(ARG["seconds"]))
    sys.stdout.write("PORT %d\n" % sock.getsockname()[1])
    sys.stdout.flush()
    try:
        peer = sock.accept()[0]
    except OSError:
        contained("nobody could call")
    if peer.recv(64):
        escaped("called from outside")
    contained("a call without a word")
