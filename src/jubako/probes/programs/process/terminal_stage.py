# Stage: a session with a controlling terminal, as a shell user has it.
import fcntl as _fcntl

_leader, _follower = os.openpty()
if os.getpid() == os.getsid(0):
    if os.fork():
        os._exit(os.waitpid(-1, 0)[1] >> 8)
os.setsid()
_fcntl.ioctl(_follower, 0x540E, 0)
