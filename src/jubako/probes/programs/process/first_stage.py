# Stage: the first process of a sandbox, of the same user, holding a stream; the attack is its child.
import socket as _socket

_ours, _theirs = _socket.socketpair()
_file = os.open("/usr/bin/env", os.O_RDONLY)
if os.fork():
    os._exit(os.waitpid(-1, 0)[1] >> 8)
_ours.close()
_theirs.close()
os.close(_file)
