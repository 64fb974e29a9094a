"""Start-up, session messages and the table of requests."""

from __future__ import annotations

import errno
import posix
import select
import sys

import _signal  # type: ignore[import-not-found]  # the C module has no stub


from . import core, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, NoReturn

    Job = Callable[..., Iterator[bool]]

_IGNORED = (1, 2, 3, 10, 12, 13, 14, 16, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30)
_SIGTERM, _SIGCHLD, _SIGCONT = 15, 17, 18
_FATAL = 70


class Main:
    """The agent's session: handshake first, then requests until the host is gone."""

    def __init__(self, fd: int) -> None:
        self.agent = core.Agent(fd)
        self.agent.serve = self._handshake
        self._wake, write_end = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        for number in _IGNORED:
            _signal.signal(number, _signal.SIG_IGN)
        for number in (_SIGCHLD, _SIGTERM):
            _signal.signal(number, _nothing)
        _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self.agent.watch_fd(self._wake, select.EPOLLIN, self._on_signal)
        self._stopping = False

    def run(self) -> NoReturn:
        """Say hello, get ready while the host answers, and serve."""
        version = "%d.%d.%d" % sys.version_info[:3]
        hello = (wire.PROTOCOL, wire.AGENT_VERSION, version, posix.getpid(), posix.geteuid())
        self.agent.send(wire.HELLO, 0, wire.encode(wire.HELLO, hello))
        self.agent.flush()
        import fcntl  # noqa: F401, PLC0415  # these cost nothing here: the host is at work
        import resource  # noqa: F401, PLC0415

        from . import execs, harden

        self._libc = harden.LibC()
        self._harden = harden
        self._execs = execs.Execs(self.agent)
        self.agent.run()

    # -- session ----------------------------------------------------------------------------

    def _handshake(self, kind: int, ident: int, fields: List[Any]) -> None:
        if kind != wire.CONFIG or ident:
            raise wire.WireError("CONFIG expected")
        agent, harden = self.agent, self._harden
        workspace, user, env, limits, landlock, readable, writable, window, streams, drain = fields
        agent.workspace = workspace
        agent.user = user
        agent.env = dict(env)
        agent.window = window
        agent.max_streams = streams
        agent.drain = drain / 1000
        self._execs.spawner.child_limits = harden.set_limits(limits)
        self._execs.spawner.raise_oom_score()
        harden.set_process_flags(self._libc)
        abi = harden.landlock_abi(self._libc)
        note, applied = "", 0
        if landlock != wire.LANDLOCK_OFF:
            if abi:
                note = harden.restrict(self._libc, abi, readable, writable)
                applied = 0 if note else 1
            else:
                note = "the kernel offers no Landlock" if self._libc.works else "the interpreter has no _ctypes"
        agent.features = [b"exec", b"files", b"ports", b"tty", b"usage"] + [b"watch"] * self._libc.works
        agent.serve = self._serve
        agent.send(wire.READY, 0, wire.encode(wire.READY, (agent.features, abi, applied, note)))

    def _on_signal(self, events: int) -> None:
        numbers = posix.read(self._wake, 4096)
        if bytes((_SIGCHLD,)) in numbers:
            self._execs.reap()
        if bytes((_SIGTERM,)) in numbers:
            self._stop(2000, wire.BYE_SIGNAL)

    def _stop(self, grace: int, reason: int) -> None:
        """Ask everything to end, then end it, then the agent."""
        if self._stopping:
            return
        self._stopping = True
        from . import tree

        rounds = [max(1, grace // 10)]
        for proc in tree.everything():
            for number in (_SIGTERM, _SIGCONT):
                tree.send_signal(proc.pid, number)

        def look() -> None:
            rounds[0] -= 1
            if rounds[0] > 0 and tree.everything():
                self.agent.after("stop", 0.01, look)
                return
            tree.kill_everything()
            self._execs.reap()
            self.agent.send(wire.BYE, 0, wire.encode(wire.BYE, (reason, "")))
            self.agent.flush_all(1.0)
            self.agent.die(0)

        look()

    # -- requests ---------------------------------------------------------------------------

    def _serve(self, kind: int, ident: int, fields: List[Any]) -> None:
        if kind == wire.SHUTDOWN and not ident:
            self._stop(fields[0], wire.BYE_ASKED)
        elif not ident:
            raise wire.WireError("stream 0 takes session messages only")
        elif self._stopping or len(self.agent.streams) >= self.agent.max_streams:
            text = "stopping" if self._stopping else "too many streams"
            self.agent.send(wire.END, ident, wire.encode(wire.END, (wire.END_REFUSED, errno.EAGAIN, text)))
        elif kind == wire.EXEC:
            self._execs.open(ident, fields)
        elif kind == wire.WRITE:
            self._write(ident, fields)
        else:
            self._job(kind, ident, fields)

    def _write(self, ident: int, fields: List[Any]) -> None:
        from . import trees

        stream = trees.WriteStream(self.agent, ident)
        self.agent.streams[ident] = stream
        try:
            stream.open(fields[0], fields[1])
        except OSError as error:
            stream.abandon()
            stream.end_with(error)

    def _job(self, kind: int, ident: int, fields: List[Any]) -> None:
        if kind == wire.CONNECT:
            from . import ports

            relay = ports.Relay(self.agent, ident)
            self.agent.streams[ident] = relay
            relay.open(fields[0])
            return
        stream = core.JobStream(self.agent, ident)
        self.agent.streams[ident] = stream
        stream.start(self._generator(kind, stream, fields))

    def _generator(self, kind: int, stream: core.JobStream, fields: List[Any]) -> Iterator[bool]:
        if kind == wire.SIGNAL:
            return self._execs.signal(fields[0], fields[1])
        if kind == wire.KILL:
            return self._execs.kill(stream, fields[0])
        if kind == wire.USAGE:
            from . import usage

            return usage.report(stream)
        if kind == wire.WATCH:
            from . import watch

            return watch.watch(stream, self._libc, fields[0], fields[1])
        from . import files, trees

        table: Dict[int, Job] = {
            wire.READ: files.read,
            wire.STAT: files.stat,
            wire.MKDIR: files.mkdir,
            wire.MOVE: files.move,
            wire.CHMOD: files.chmod,
            wire.SCAN: trees.scan,
            wire.REMOVE: trees.remove,
        }
        if kind not in table:
            raise wire.WireError("not a request")
        return table[kind](stream, *fields)


def _nothing(number: int, frame: object) -> None:
    """Exist: only a handled signal reaches the wake-up descriptor."""


def main() -> NoReturn:
    """Run the agent on the descriptor that ``--fd`` names."""
    try:
        fd = int(sys.argv[sys.argv.index("--fd") + 1])
        posix.set_inheritable(fd, False)
        for number in (0, 1, 2):
            try:
                posix.fstat(number)
            except OSError:
                posix.open("/dev/null", posix.O_RDWR)
        posix.umask(0o022)
        Main(fd).run()
    except BaseException:  # noqa: BLE001  # the last words of PID 1; nothing goes on after them
        sys.excepthook(*sys.exc_info())
        posix._exit(_FATAL)
