"""Starting one program: lookup in PATH, the spawn itself, and what its failures mean."""

from __future__ import annotations

import errno
import posix

from . import core, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Dict, List, Optional, Sequence, Tuple
else:
    import _signal

CHILD_OOM_SCORE = 500
# Dispositions that the agent or its interpreter changed; 9 and 19 can't be set.
_DEFAULTED = [number for number in range(1, 32) if number not in (9, 19)]

_MEANING = {
    errno.E2BIG: "argument list too long",
    errno.EAGAIN: "process limit reached",
    errno.ENOMEM: "not enough memory to start it",
    errno.ENOEXEC: "not a program: no known format and no #! line",
    errno.ENOENT: "its interpreter does not exist",
    errno.ETXTBSY: "it is open for writing",
}


class SpawnError(Exception):
    """The program could not be started; ``kind`` is one of the END kinds."""

    def __init__(self, kind: int, number: int, text: str) -> None:
        Exception.__init__(self, text)
        self.kind = kind
        self.number = number
        self.text = text


class Identity:
    """A user to run as: only given when the agent is root and has to become somebody else."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, uid: int, gid: int, groups: List[int]) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups


def find_identity(name: bytes) -> Optional[Identity]:
    """Return whom to become for a user name or number, or None when the agent is that user already."""
    own = posix.geteuid()
    if not name:
        return None
    import pwd

    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name.decode("utf-8", "replace"))
        uid, gid, login = entry.pw_uid, entry.pw_gid, entry.pw_name
    except KeyError:
        if not name.isdigit():
            raise SpawnError(wire.END_REFUSED, errno.EINVAL, "no such user") from None
        uid = gid = int(name)
        login = ""
    if uid == own:
        return None
    if own != 0:
        raise SpawnError(wire.END_REFUSED, errno.EPERM, "only root can run programs as another user")
    return Identity(uid, gid, posix.getgrouplist(login, gid) if login else [gid])


def find_program(name: bytes, path: bytes, cwd: bytes) -> bytes:
    """Return the file to execute. Raises SpawnError as a shell would report it."""
    text = name.decode("utf-8", "replace")
    if not name:
        raise SpawnError(wire.END_NOT_FOUND, errno.ENOENT, "empty program name")
    if b"/" in name:
        candidates = [name if name.startswith(b"/") else cwd + b"/" + name]
    else:
        candidates = [(part if part.startswith(b"/") else cwd + b"/" + part) + b"/" + name for part in path.split(b":")]
    forbidden = False
    for candidate in candidates:
        try:
            mode = posix.stat(candidate).st_mode
        except OSError as error:
            forbidden = forbidden or error.errno in (errno.EACCES, errno.ELOOP)
            continue
        if mode & 0o170000 == 0o100000 and posix.access(candidate, posix.X_OK):
            return candidate
        forbidden = True
    if forbidden:
        raise SpawnError(wire.END_NOT_EXECUTABLE, errno.EACCES, text[:200] + ": permission denied")
    raise SpawnError(wire.END_NOT_FOUND, errno.ENOENT, text[:200] + ": not found")


def enter_directory(path: bytes) -> None:
    """Change to a program's working directory. Raises SpawnError."""
    try:
        posix.chdir(path)
    except OSError as error:
        text = "working directory: " + posix.strerror(error.errno or 0)
        raise SpawnError(wire.END_NOT_EXECUTABLE, error.errno or 0, text) from None


class Launch:
    """What to start: the program's view of the world, and where its three descriptors lead."""

    def __init__(self, argv: List[bytes], env: Dict[bytes, bytes], cwd: bytes, identity: Optional[Identity]) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.identity = identity
        self.fds: Tuple[int, ...] = (0, 1, 2)
        """Descriptors that become 0, 1, ... of the program."""
        self.limits: Optional[Sequence[Tuple[int, int, int]]] = None
        """Limits that the agent must not have itself; None for those of the session's programs."""
        self.tty = b""
        """A terminal to open instead of using ``fds``."""


class Spawner:
    """Starts programs, in the way that the session's limits call for."""

    def __init__(self) -> None:
        self.null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
        self.child_limits: Sequence[Tuple[int, int, int]] = ()
        """Limits that the agent must not have itself; they force the fork path."""
        self._oom_fd = -1
        self._own_oom = b"0"

    def raise_oom_score(self) -> None:
        """Make the kernel prefer programs over the agent when memory runs out."""
        try:
            fd = posix.open("/proc/self/oom_score_adj", posix.O_RDWR | posix.O_CLOEXEC)
        except OSError:
            return
        own = posix.read(fd, 16).strip()
        if own.lstrip(b"-").isdigit() and int(own) < CHILD_OOM_SCORE:
            self._own_oom = own
            self._oom_fd = fd
        else:
            posix.close(fd)

    def _oom(self, value: bytes) -> None:
        if self._oom_fd >= 0:
            try:
                posix.pwrite(self._oom_fd, value, 0)
            except OSError:
                # Then programs keep the agent's own score; nothing else depends on it.
                posix.close(self._oom_fd)
                self._oom_fd = -1

    def start(self, launch: Launch) -> int:
        """Return the pid of the started program. Raises SpawnError."""
        name = launch.argv[0]
        program = find_program(name, launch.env.get(b"PATH", b"/usr/bin:/bin"), launch.cwd)
        limits = self.child_limits if launch.limits is None else launch.limits
        enter_directory(launch.cwd)
        # Inherited by the child and taken back at once: no descendant can start with the agent's score.
        self._oom(b"%d" % CHILD_OOM_SCORE)
        try:
            if launch.identity is not None or limits:
                return self._fork(program, launch, limits)
            return _spawn(program, launch)
        except OSError as error:
            number = error.errno or errno.EIO
            text = name.decode("utf-8", "replace")[:200] + ": " + _MEANING.get(number, posix.strerror(number))
            raise SpawnError(wire.END_NOT_EXECUTABLE, number, text) from None
        except ValueError as error:
            raise SpawnError(wire.END_REFUSED, errno.EINVAL, str(error)) from None
        finally:
            self._oom(self._own_oom)
            posix.chdir(b"/")

    def _fork(self, program: bytes, launch: Launch, limits: Sequence[Tuple[int, int, int]]) -> int:
        """Start a program for which the child must change more than its descriptors."""
        import resource

        read_end, write_end = posix.pipe2(posix.O_CLOEXEC)
        pid = posix.fork()
        if pid == 0:
            try:
                _signal.set_wakeup_fd(-1)
                for number in _DEFAULTED:
                    _signal.signal(number, _signal.SIG_DFL)
                posix.setsid()
                _take_descriptors(launch)
                for kind, soft, hard in limits:
                    resource.setrlimit(kind, (soft, hard))  # control: resource.open-files
                if launch.identity is not None:
                    posix.setgroups(launch.identity.groups)
                    posix.setgid(launch.identity.gid)
                    posix.setuid(launch.identity.uid)
                posix.execve(program, launch.argv, launch.env)
            except OSError as error:
                posix.write(write_end, b"%d" % (error.errno or errno.EIO))
            finally:
                core.leave(127)
        posix.close(write_end)
        failure = posix.read(read_end, 16)
        posix.close(read_end)
        if failure:
            posix.waitpid(pid, 0)
            raise OSError(int(failure), "")
        return pid


def _take_descriptors(launch: Launch) -> None:
    fds = launch.fds
    if launch.tty:
        slave = posix.open(launch.tty, posix.O_RDWR)
        fds = (slave, slave, slave)
    for number, fd in enumerate(fds):
        posix.dup2(fd, number, inheritable=True)


def _spawn(program: bytes, launch: Launch) -> int:
    actions: List[Tuple[object, ...]]
    if launch.tty:
        # A session leader's first terminal becomes its controlling one.
        actions = [
            (posix.POSIX_SPAWN_OPEN, 0, launch.tty, posix.O_RDWR, 0),
            (posix.POSIX_SPAWN_DUP2, 0, 1),
            (posix.POSIX_SPAWN_DUP2, 0, 2),
        ]
    else:
        actions = [(posix.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(launch.fds)]
    return posix.posix_spawn(
        program,
        launch.argv,
        launch.env,
        # Every descriptor of the agent is close-on-exec.  control: process.descriptors
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_DEFAULTED,
    )
