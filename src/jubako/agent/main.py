"""Start-up, session messages and the table of requests."""

from __future__ import annotations

import _socket
import errno
import posix
import select
import sys
import time

from . import core, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Tuple

    from . import execs, renew, tools
else:
    import _signal

_IGNORED = (1, 2, 3, 10, 12, 13, 14, 16, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30)
_SIGTERM, _SIGCHLD, _SIGCONT = 15, 17, 18
_FATAL = 70
_STOP_PAUSE = 0.005
_KILL_ROUNDS = 400


class Main:
    """The agent's session: handshake first, then requests until the host is gone."""

    def __init__(self, fd: int, *, on_stdio: bool = False) -> None:
        self._on_stdio = on_stdio
        self.agent = core.Agent(fd)
        self.agent.serve = self._handshake
        # Sockets, which nobody else can open by /proc, also where the kernel hides them less well than Linux.
        self._waker = _socket.socketpair()
        for end in self._waker:
            end.setblocking(False)  # noqa: FBT003  # it takes no keywords
        self._wake, write_end = (end.fileno() for end in self._waker)
        for number in _IGNORED:
            _signal.signal(number, _signal.SIG_IGN)
        for number in (_SIGCHLD, _SIGTERM):
            _signal.signal(number, _nothing)
        _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self.agent.watch_fd(self._wake, select.EPOLLIN, self._on_signal)
        self._stopping = False
        self._loaded: Optional[execs.Execs] = None
        self._endpoint = b""
        self.facts: Tuple[List[bytes], int, int, str] = ([], 0, 0, "")
        """What READY said."""
        self.renewable = False
        """A restored sandbox may take an identity of its own."""
        self._snapshots: Optional[renew.Snapshots] = None
        self._tools: Optional[tools.Tools] = None

    def run(self) -> NoReturn:
        """Say hello, get ready while the host answers, and serve."""
        version = "%d.%d.%d" % sys.version_info[:3]
        hello = (wire.PROTOCOL, wire.AGENT_VERSION, version, posix.getpid(), posix.geteuid())
        self.agent.send(wire.HELLO, 0, wire.encode(wire.HELLO, hello))
        self.agent.flush()
        # Importing costs nothing here: the host is at work on its answer.
        import fcntl
        import resource

        from . import limits, spawn

        del fcntl, resource
        self._set_limits = limits.set_limits
        self._spawner = spawn.Spawner()
        try:
            from . import harden, walls
        except ImportError:
            # No _ctypes: fine unless the host asks for something that needs it.
            self._native = False
        else:
            self._native = True
            self._harden = harden
            self._walls = walls
        self.agent.run()

    # -- session ----------------------------------------------------------------------------

    def _handshake(self, kind: int, ident: int, fields: List[Any]) -> None:
        if kind != wire.CONFIG or ident:
            raise wire.WireError("CONFIG expected")
        agent = self.agent
        workspace, user, env, limits, landlock, readable, writable, mounts, program = fields[:9]
        window, streams, drain, endpoint = fields[9:13]
        agent.workspace = workspace
        agent.user = user
        agent.env = dict(env)
        agent.window = window
        agent.max_streams = streams
        agent.drain = drain / 1000
        self._endpoint = endpoint
        self.renewable = bool(fields[17])
        try:
            abi, note = self._harden_self(limits, landlock, (readable, writable), mounts, program)
        except OSError as error:
            self._fail(error.strerror or str(error))
        agent.features = [b"exec", b"files", b"ports", b"tty", b"usage"] + [b"watch"] * self._native
        agent.features += [b"tools"] * bool(endpoint)
        agent.serve = self._serve
        applied = int(landlock != wire.LANDLOCK_OFF and not note)
        self.facts = (agent.features, abi, applied, note)
        agent.send(wire.READY, 0, wire.encode(wire.READY, self.facts))
        agent.flush()
        if self._on_stdio:
            _leave_output()
        self.execs()  # while the host looks at the walls
        if fields[13]:
            self._set_launcher(*fields[13:17])

    def execs(self) -> execs.Execs:
        """Return the part that runs programs, loading it at first use."""
        if self._loaded is None:
            from . import execs

            self._loaded = execs.Execs(self.agent, self._spawner)
        return self._loaded

    def _set_launcher(self, argv: List[bytes], env: List[Tuple[bytes, bytes]], everything: int, ready: int) -> None:
        from . import launcher

        config = launcher.Config(argv, dict(env), everything=bool(everything), seconds=ready / 1000)
        owner = self.execs()
        # Not started yet: nothing may run before the host has seen the walls and filled the cgroup.
        owner.launcher = launcher.Launcher(self.agent, owner, config)

    def _harden_self(
        self,
        limits: List[int],
        landlock: int,
        paths: Tuple[List[bytes], List[bytes]],
        mounts: List[bytes],
        program: bytes,
    ) -> Tuple[int, str]:
        """Put up what the host asked for; return the Landlock ABI and why it was not applied."""
        spawner = self._spawner
        spawner.child_limits = self._set_limits(limits)
        spawner.raise_oom_score()
        if not self._native:
            if mounts or program:
                raise OSError(errno.ENOSYS, "the interpreter has no _ctypes")
            self._open_tools()
            return 0, "the interpreter has no _ctypes"
        harden, walls = self._harden, self._walls
        if mounts:
            walls.mount_private(mounts)  # control: fs.workspace, fs.private-tmp, resource.disk, resource.inodes
        harden.set_process_flags()
        abi, note = 0, ""
        try:
            abi = harden.landlock_abi()
            if landlock != wire.LANDLOCK_OFF:
                harden.restrict(abi, *paths)
        except OSError as error:
            note = "Landlock: " + (error.strerror or str(error))
        # Behind Landlock, which keeps programs from abstract sockets made before it; ahead of the filter,
        # by which a policy may deny the calls that it takes.
        self._open_tools()
        if program:
            walls.drop_capabilities(renewable=self.renewable)  # control: syscall.capabilities
            walls.load_filter(program)  # control: syscall.allowlist
        return abi, note

    def _open_tools(self) -> None:
        """Open the socket for calls to the host, if there is to be one. Raises OSError."""
        if self._endpoint:
            from . import tools

            self._tools = tools.Tools(self.agent, self._endpoint)

    def renew_tools(self, *, wanted: bool) -> List[bytes]:
        """Go on with calls to another host, or without; return what is missing for it."""
        if self._tools is not None:
            self._tools.renew()
            if not wanted:
                self._tools.close()
                self._tools = None
        return [b"tools"] if wanted and self._tools is None else []

    def resume(self) -> None:
        """Serve requests."""
        self.agent.serve = self._serve

    def _fail(self, text: str) -> NoReturn:
        """End because the sandbox can't be made as the host wants it."""
        self.agent.send(wire.BYE, 0, wire.encode(wire.BYE, (wire.BYE_FAILED, text)))
        self.agent.flush_all(1.0)
        self.agent.die(_FATAL)

    def _on_signal(self, _events: int) -> None:
        numbers = posix.read(self._wake, 4096)
        if bytes((_SIGCHLD,)) in numbers:
            self.execs().reap()
        if bytes((_SIGTERM,)) in numbers:
            self._stop(2000, wire.BYE_SIGNAL)

    def _stop(self, grace: int, reason: int) -> None:
        """Ask everything to end, then end it, then the agent."""
        if self._stopping:
            return
        self._stopping = True
        from . import tree

        for proc in tree.everything():
            for number in (_SIGTERM, _SIGCONT):
                tree.send_signal(proc.pid, number)
        self._finish_stop(reason, time.monotonic() + grace / 1000, _KILL_ROUNDS)

    def _finish_stop(self, reason: int, deadline: float, rounds: int) -> None:
        """Look until nothing is left, killing from ``deadline`` on, so that every EXIT precedes BYE."""
        from . import tree

        over = time.monotonic() >= deadline
        # Orphans become children of the agent, so that no child left means nothing left.
        if self.execs().reap() and rounds > 0:
            if over:
                tree.kill_everything()
            self.agent.after("stop", _STOP_PAUSE, lambda: self._finish_stop(reason, deadline, rounds - over))
            return
        self.agent.send(wire.BYE, 0, wire.encode(wire.BYE, (reason, "")))
        self.agent.flush_all(1.0)
        self.agent.die(0)

    # -- requests ---------------------------------------------------------------------------

    def _serve(self, kind: int, ident: int, fields: List[Any]) -> None:
        if kind == wire.SHUTDOWN and not ident:
            self._stop(fields[0], wire.BYE_ASKED)
        elif kind == wire.LAUNCH and not ident:
            self.execs().launch()
        elif kind == wire.PREPARE and not ident:
            self._prepare()
        elif not ident:
            raise wire.WireError("stream 0 takes session messages only")
        elif self._stopping or self._crowded(kind):
            text = "stopping" if self._stopping else "too many streams"
            self.agent.send(wire.END, ident, wire.encode(wire.END, (wire.END_REFUSED, errno.EAGAIN, text)))
        elif kind == wire.EXEC:
            self.execs().open(ident, fields)
        elif kind == wire.WRITE:
            self._write(ident, fields)
        else:
            self._job(kind, ident, fields)

    def _prepare(self) -> None:
        if self._snapshots is None:
            from . import renew

            self._snapshots = renew.Snapshots(self)
        self._snapshots.prepare()

    def _crowded(self, kind: int) -> bool:
        # Killing is always possible: it makes room. Streams for calls wait all the time and take none.
        always = kind in (wire.KILL, wire.SIGNAL, wire.TOOLS)
        return not always and len(self.agent.streams) >= self.agent.max_streams

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
        if kind == wire.TOOLS:
            if self._tools is None:
                raise wire.WireError("no tools were configured")
            self._tools.offer(ident)
            return
        call = self._call(kind)
        if call is not None:
            stream = core.CallStream(self.agent, ident)
            self.agent.streams[ident] = stream
            stream.run(call, *fields)
            return
        job = core.JobStream(self.agent, ident)
        self.agent.streams[ident] = job
        job.start(self._generator(kind, job, fields))

    def _call(self, kind: int) -> Optional[Callable[..., None]]:
        """Return the function for a request that is served at once."""
        if kind == wire.SIGNAL:
            return self.execs().signal
        if kind == wire.USAGE:
            from . import usage

            return usage.report
        from . import files

        table: Dict[int, Callable[..., None]] = {
            wire.STAT: files.stat,
            wire.MKDIR: files.mkdir,
            wire.MOVE: files.move,
            wire.CHMOD: files.chmod,
        }
        return table.get(kind)

    def _generator(self, kind: int, stream: core.JobStream, fields: List[Any]) -> Iterator[bool]:
        """Return the job for a request that takes its time."""
        if kind == wire.KILL:
            return self.execs().kill(stream, fields[0])
        if kind == wire.READ:
            from . import files

            return files.read(stream, *fields)
        if kind == wire.WATCH:
            from . import watch

            return watch.watch(stream, *fields)
        from . import trees

        if kind == wire.SCAN:
            return trees.scan(stream, *fields)
        if kind == wire.REMOVE:
            return trees.remove(stream, *fields)
        raise wire.WireError("not a request")


def _nothing(_number: int, _frame: object) -> None:
    """Exist: only a handled signal reaches the wake-up descriptor."""


def _open_null() -> int:
    """Return a descriptor that leads nowhere: /dev/null, or a pipe without another end where there is none."""
    try:
        return posix.open("/dev/null", posix.O_RDWR)
    except OSError:
        read_end, write_end = posix.pipe()
        posix.close(write_end)
        return read_end


def _leave_output() -> None:
    """Give up the host's files behind standard output and error: in gVisor programs can open them by /proc/1/fd."""
    null = _open_null()  # control: process.descriptors
    for number in (1, 2):
        posix.dup2(null, number)
    posix.close(null)


def main() -> NoReturn:
    """Run the agent on the descriptor that ``--fd`` names."""
    try:
        fd = int(sys.argv[sys.argv.index("--fd") + 1])
        for number in (0, 1, 2):
            try:
                posix.fstat(number)
            except OSError:
                # The lowest free number, which is this one.
                _open_null()
        on_stdio = fd <= 2
        if on_stdio:
            # Out of the way: these three are what programs get, or where diagnostics go.
            number, fd = fd, posix.dup(fd)
            null = _open_null()
            posix.dup2(null, number)
            posix.close(null)
        posix.set_inheritable(fd, False)  # noqa: FBT003  # it takes no keywords
        posix.umask(0o022)
        Main(fd, on_stdio=on_stdio).run()
    except BaseException:  # noqa: BLE001  # the last words of PID 1; nothing goes on after them
        kind, error, trace = sys.exc_info()
        if kind is not None and error is not None:
            sys.excepthook(kind, error, trace)
        core.leave(_FATAL)
