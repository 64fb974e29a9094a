"""Programs: their pipes or terminal, their exit, and what is left of their output afterwards."""

from __future__ import annotations

import errno
import posix
import sys

from . import core, pipes, spawn, tree, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

    from . import launcher

MAX_DETACHED = 64
MAX_STRAYS = 1024
_ORDER = sys.byteorder
_KILL_PAUSE = 0.002


class Exec(core.Stream):
    """One program from EXEC to END."""

    def __init__(self, agent: core.Agent, ident: int, execs: Execs) -> None:
        core.Stream.__init__(self, agent, ident)
        self.execs = execs
        self.pid = 0
        self.exited = False
        self.tty = False
        self.outputs: List[pipes.Output] = []
        self.input: Optional[pipes.Input] = None
        self.limits = 0
        """Limits that its launcher says it ran into: a bit each, as EXIT has them."""
        self.pending: Optional[launcher.Request] = None
        """What the launcher was asked for, until it answers."""
        self._ends: Tuple[int, int, int] = (-1, -1, -1)
        self._early: List[Tuple[str, Any]] = []

    @property
    def is_pending(self) -> bool:
        """Whether the launcher has not answered yet."""
        return self.pending is not None

    def open(self, launch: spawn.Launch, *, stdin: bool) -> None:
        """Start the program with pipes. Raises SpawnError or OSError; nothing is left open then."""
        opened = self._pipes(launch, stdin=stdin)
        try:
            pid = self.execs.spawner.start(launch)
        except BaseException:
            self._close_all(opened)
            raise
        self._close_all(launch.fds)
        self._attach(pid)

    def _pipes(self, launch: spawn.Launch, *, stdin: bool) -> List[int]:
        """Make the program's pipes; return all that was opened."""
        opened: List[int] = []
        try:
            out_r, out_w = self._pipe(opened)
            err_r, err_w = self._pipe(opened)
            in_r, in_w = self._pipe(opened) if stdin else (self.execs.spawner.null, -1)
        except BaseException:
            self._close_all(opened)
            raise
        launch.fds = (in_r, out_w, err_w)
        self._ends = (in_w, out_r, err_r)
        for fd in self._ends:
            if fd >= 0:
                posix.set_blocking(fd, False)
        return opened

    def _close_all(self, fds: Iterable[int]) -> None:
        for fd in fds:
            if fd >= 0 and fd != self.execs.spawner.null:
                posix.close(fd)

    def _attach(self, pid: int) -> None:
        """Say that the program runs, and serve its pipes."""
        self._started(pid)
        in_w, out_r, err_r = self._ends
        self.outputs = [pipes.Output(self, 0, out_r), pipes.Output(self, 1, err_r)]
        if in_w >= 0:
            self.input = pipes.Input(self, in_w, tty=False)

    def open_launched(self, launch: spawn.Launch, starter: launcher.Launcher, *, stdin: bool) -> None:
        """Have the launcher start the program. Raises SpawnError or OSError as ``open`` does."""
        spawn.enter_directory(launch.cwd)
        posix.chdir(b"/")
        opened = self._pipes(launch, stdin=stdin)
        launch.limits = self.execs.spawner.child_limits
        try:
            request = starter.request(self, launch)
        except BaseException:
            self._close_all(opened)
            raise
        self.pending = request
        starter.submit(request)

    def launched(self, pid: int) -> None:
        """Take the launcher's word that the program runs."""
        request, self.pending = self.pending, None
        if request is None:
            raise AssertionError
        self._close_all(request.fds)
        self._attach(pid)
        for name, value in self._early:
            getattr(self, name)(value)
        ended = self.execs.strays.pop(pid, None)
        if ended is not None:
            del self.execs.by_pid[pid]
            self.on_exit(*ended)
        elif request.unwanted:
            tree.send_signal(pid, tree.SIGKILL)

    def refused(self, kind: int, number: int, text: str) -> None:
        """Take the launcher's word that there will be no program."""
        request, self.pending = self.pending, None
        if request is not None:
            self._close_all((*request.fds, *self._ends))
        self.end(kind, number, text)

    def _pipe(self, opened: List[int]) -> Tuple[int, int]:
        pair = posix.pipe2(posix.O_CLOEXEC)
        opened.extend(pair)
        return pair

    def open_tty(self, launch: spawn.Launch, size: Tuple[int, int]) -> None:
        """Start the program on a terminal of its own; stderr ends at once."""
        master, slave = posix.openpty()
        try:
            self._set_size(master, size)
            launch.env.setdefault(b"TERM", b"xterm-256color")
            launch.tty = posix.ttyname(slave).encode()
            pid = self.execs.spawner.start(launch)
            second = posix.dup(master)
        except BaseException:
            posix.close(master)
            raise
        finally:
            posix.close(slave)
        posix.set_blocking(master, False)
        self.tty = True
        self._started(pid)
        self.outputs = [pipes.Output(self, 0, master)]
        self.send(wire.EOF, 1)
        self.input = pipes.Input(self, second, tty=True)

    def _set_size(self, fd: int, size: Tuple[int, int]) -> None:
        import fcntl
        import termios

        rows, columns = size
        packed = rows.to_bytes(2, _ORDER) + columns.to_bytes(2, _ORDER) + b"\0\0\0\0"
        fcntl.ioctl(fd, termios.TIOCSWINSZ, packed)

    def _started(self, pid: int) -> None:
        self.pid = pid
        self.execs.by_pid[pid] = self
        self.execs.family.started(self.ident, pid)
        self.send(wire.STARTED, pid)

    def on_data(self, data: bytes) -> None:
        """Take input for the program."""
        if self.pending is not None:
            self._early.append(("on_data", data))
        elif self.input is not None:
            self.input.feed(data)

    def on_eof(self, _channel: int = 0) -> None:
        """Close the program's input."""
        if self.pending is not None:
            self._early.append(("on_eof", _channel))
        elif self.input is not None:
            self.input.finish()

    def on_credit(self, channel: int, amount: int) -> None:
        """Read on."""
        for output in self.outputs:
            if output.channel == channel:
                output.credit += amount
                output.arm()

    def on_discard(self, channel: int) -> None:
        """Read on, to nowhere."""
        if self.pending is not None:
            self._early.append(("on_discard", channel))
        for output in self.outputs:
            if output.channel == channel and not output.discard:
                output.drop()
                if self.exited:
                    self.settle()

    def on_resize(self, rows: int, columns: int) -> None:
        """Tell the terminal, which signals its programs."""
        if self.tty and self.outputs[0].fd >= 0:
            self._set_size(self.outputs[0].fd, (rows, columns))

    def on_close(self) -> None:
        """Losing interest in a program does not end it; KILL does."""
        for channel in (0, 1):
            self.on_discard(channel)

    def on_exit(self, status: int, usage: Any) -> None:
        """Report the exit at once; output that the program left in its pipes follows."""
        self.execs.family.exited(self.ident)
        if self.execs.launcher is not None:
            self.execs.launcher.listen()  # what the program said of itself before it ended
        if self.input is not None:
            self.input.close()
        pending = 0
        for output in self.outputs:
            pending += output.drain()
        if status & 0x7F:
            kind, value = wire.SIGNALLED, status & 0x7F
        else:
            kind, value = wire.EXITED, (status >> 8) & 0xFF
        micro = 1000000
        self.send(
            wire.EXIT,
            kind,
            value,
            pending,
            int(usage.ru_utime * micro),
            int(usage.ru_stime * micro),
            usage.ru_maxrss * 1024,
            self.limits,
        )
        # Only now: END must not overtake EXIT.
        self.exited = True
        self.settle()

    def on_output_closed(self, output: pipes.Output) -> None:
        """Pass on that an output has ended."""
        output.tell()
        if self.exited:
            self.settle()

    def settle(self) -> None:
        """After the exit: once all that is owed was passed on, wait a little for stragglers, then end."""
        if all(output.told for output in self.outputs):
            self._finish()
        elif all(output.told or output.owed <= 0 for output in self.outputs) and self not in self.agent.timers:
            self.agent.after(self, self.agent.drain, self._detach)

    def _detach(self) -> None:
        # A background child still holds the pipe: it may write on, but nobody listens any more.
        for output in self.outputs:
            if not output.told:
                if output.owed > 0:
                    return
                output.tell()
        self._finish()

    def _finish(self) -> None:
        self.agent.timers.pop(self, None)
        if self.input is not None:
            self.input.close()
        for output in self.outputs:
            if output.fd >= 0:
                output.drop()
                self.execs.detach(output)
        self.end()


class Execs:
    """All programs, reaping, and what SIGNAL and KILL do."""

    def __init__(self, agent: core.Agent, spawner: spawn.Spawner) -> None:
        self.agent = agent
        self.spawner = spawner
        self.family = tree.Family()
        self.by_pid: Dict[int, Exec] = {}
        self.launcher: Optional[launcher.Launcher] = None
        self.strays: Dict[int, Tuple[int, Any]] = {}
        """How children ended that nobody knows, while the launcher may still name them."""
        self._detached: List[pipes.Output] = []

    def open(self, ident: int, fields: List[Any]) -> None:
        """Serve EXEC."""
        argv, cwd, pairs, user, flags, rows, columns = fields
        env = dict(self.agent.env)
        env.update(pairs)
        # First, so that a reader of /proc/<pid>/environ meets it early.
        env = {tree.MARKER: self.family.marker(ident), **env}
        env[tree.MARKER] = self.family.marker(ident)
        if not argv:
            self.agent.send(wire.END, ident, wire.encode(wire.END, (wire.END_REFUSED, errno.EINVAL, "empty argv")))
            return
        stream = Exec(self.agent, ident, self)
        self.agent.streams[ident] = stream
        try:
            identity = spawn.find_identity(user or self.agent.user)
            launch = spawn.Launch(argv, env, self._absolute(cwd), identity)
            starter = self._starter(flags, identity)
            if starter is not None:
                stream.open_launched(launch, starter, stdin=bool(flags & wire.FLAG_STDIN))
            elif flags & wire.FLAG_TTY:
                stream.open_tty(launch, (rows, columns))
            else:
                stream.open(launch, stdin=bool(flags & wire.FLAG_STDIN))
        except spawn.SpawnError as error:
            stream.end(error.kind, error.number, error.text)
        except OSError as error:
            number = error.errno or errno.EIO
            stream.end(wire.END_NOT_EXECUTABLE, number, "no pipes or terminal for it: " + posix.strerror(number))

    def note_limits(self, ident: int, limits: int) -> None:
        """Take the launcher's word on which limits a program has run into."""
        stream = self.agent.streams.get(ident)
        if isinstance(stream, Exec) and stream.exited is False:
            stream.limits |= limits

    def _starter(self, flags: int, identity: Optional[spawn.Identity]) -> Optional[launcher.Launcher]:
        """Return the launcher if the program is its to start. Raises SpawnError for what it can't do."""
        preloaded = bool(flags & wire.FLAG_PRELOADED)
        if self.launcher is None or not (preloaded or self.launcher.config.everything):
            if preloaded:
                raise spawn.SpawnError(wire.END_REFUSED, errno.EINVAL, "the sandbox has no preloaded interpreter")
            return None
        own = spawn.find_identity(self.agent.user)
        if (identity and identity.uid) != (own and own.uid):
            raise spawn.SpawnError(wire.END_REFUSED, errno.EPERM, "the launcher runs programs as its own user only")
        if flags & wire.FLAG_TTY:
            raise spawn.SpawnError(wire.END_REFUSED, errno.EINVAL, "the launcher has no terminals")
        return self.launcher

    def launch(self) -> None:
        """Serve LAUNCH: start the launcher, if the session has one that does not run."""
        if self.launcher is not None:
            self.launcher.start()

    def _absolute(self, cwd: bytes) -> bytes:
        if cwd.startswith(b"/"):
            return cwd
        return self.agent.workspace + b"/" + cwd if cwd else self.agent.workspace

    def reap(self) -> bool:
        """Collect every dead child, ours and adopted ones; return whether living ones are left."""
        while True:
            try:
                pid, status, usage = posix.wait4(-1, posix.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            stream = self.by_pid.pop(pid, None)
            if stream is not None:
                stream.on_exit(status, usage)
            elif self.launcher is not None and pid in self.launcher.pids:
                self.launcher.on_death(pid, status)
            else:
                self.family.adopted += 1
                self._keep(pid, status, usage)

    def _keep(self, pid: int, status: int, usage: Any) -> None:
        """Keep an exit for as long as the launcher may still say whose it was."""
        if self.launcher is None or not self.launcher.busy:
            self.strays.clear()
            return
        self.strays[pid] = (status, usage)
        if len(self.strays) > MAX_STRAYS:
            del self.strays[next(iter(self.strays))]

    def renew(self) -> None:
        """Forget the programs of another host's session, of which none is alive; markers get another secret."""
        self.family = tree.Family()
        self.strays.clear()
        if self.launcher is not None:
            for pid in self.launcher.pids:
                self.family.reserve(pid)

    def signal(self, _stream: core.Stream, target: int, number: int) -> None:
        """Serve SIGNAL: to the program and all its descendants."""
        for proc in self.family.members(target):
            tree.send_signal(proc.pid, number)

    def kill(self, stream: core.JobStream, target: int) -> Iterator[bool]:
        """Serve KILL: done when nothing of the exec is left."""
        left = 0
        program = self.agent.streams.get(target)
        if isinstance(program, Exec) and program.pending is not None and self.launcher is not None:
            self.launcher.cancel(program.pending)
            while program.is_pending:
                self.agent.after(stream, _KILL_PAUSE, stream.step)
                yield False
        for left in tree.kill_slices(self.family, target, 5.0):
            if left:
                self.agent.after(stream, _KILL_PAUSE, stream.step)
                yield False
        if left:
            raise OSError(errno.EBUSY, "")

    def detach(self, output: pipes.Output) -> None:
        """Keep draining a pipe that background children hold; the oldest is closed when there are too many."""
        self._detached = [item for item in self._detached if item.fd >= 0]
        self._detached.append(output)
        if len(self._detached) > MAX_DETACHED:
            self._detached.pop(0).close()
