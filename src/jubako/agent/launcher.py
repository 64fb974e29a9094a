"""The launcher: a warm process inside that starts programs as forks of itself.

It is a program like any other, started when the host's CONFIG names one, and answers over a socket
pair: once that it is ready, and for each request the pid of the program. The programs become children
of the agent, which reaps, kills and counts them like those that it started itself.
``launchers/forks.py`` is the other side, and holds the same numbers.
"""

from __future__ import annotations

import errno
import posix
import select

from . import spawn, tree, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Dict, List, Optional, Set, Tuple

    from . import core, execs

READY, FAILED, STARTED, REFUSED, LIMITS = 1, 2, 3, 4, 5
CHUNK = 32768
MAX_MESSAGE = 2048
SOCKET_FD = 3
"""Where the launcher finds its socket."""
_LAST_WORDS = 1024
_RETRY_SECONDS = 0.005
_ANSWER_SECONDS = 5.0
"""A launcher that is ready answers in milliseconds; one that was stopped never does."""
_DEATH_SECONDS = 1.0
_SPARE_FD = 10
_F_DUPFD_CLOEXEC = 1030
_ENDS = (wire.END_REFUSED, wire.END_NOT_FOUND, wire.END_NOT_EXECUTABLE)
RESERVED = 0
"""The number under which the family knows the launcher; no stream has it."""


class Config:
    """What CONFIG says about the launcher."""

    def __init__(self, argv: List[bytes], env: Dict[bytes, bytes], *, everything: bool, seconds: float) -> None:
        self.argv = argv
        self.env = env
        self.everything = everything
        """Every program is the launcher's; else those alone whose EXEC says so."""
        self.seconds = seconds
        """How long it may take to get ready."""


class Request:
    """One program that the launcher was, or will be, asked to start."""

    def __init__(self, stream: execs.Exec, launch: spawn.Launch) -> None:
        self.stream = stream
        self.fds = launch.fds
        self.body = _body(launch)
        self.at = 0
        self.begun = False
        """Something of it was sent, so that an answer will come."""
        self.unwanted = False
        """It was killed before it ran."""
        self.repeated = False
        """A launcher was lost over it before."""

    def chunk(self) -> Tuple[bytes, List[Tuple[int, int, bytes]]]:
        """Return the next datagram, and what goes beside it."""
        if self.begun:
            return self.body[self.at : self.at + CHUNK], []
        header = self.stream.ident.to_bytes(4, "big") + len(self.body).to_bytes(4, "big")
        # SOL_SOCKET, SCM_RIGHTS; descriptors are C ints.
        return header + self.body[:CHUNK], [(1, 1, b"".join(_native(fd) for fd in self.fds))]


class Launcher:
    """The agent's side of the one launcher of a session."""

    def __init__(self, agent: core.Agent, owner: execs.Execs, config: Config) -> None:
        self.agent = agent
        self.owner = owner
        self.config = config
        self.pid = 0
        self.pids: Set[int] = set()
        """Processes to reap: the present one, and earlier ones that were killed."""
        self._socket: Optional[socket] = None
        self._said = -1
        self._words = b""
        self._how = ""
        self._ready = False
        self._writing = False
        self._failure = ""
        """Why it never got ready: told to the next program, after which it is tried again."""
        self._queue: List[Request] = []
        self._asked: Dict[int, Request] = {}
        """Sent at least in part, not answered."""

    @property
    def busy(self) -> bool:
        """Whether the exit of a child that nobody knows may be that of a program about to be named."""
        return bool(self._asked)

    @property
    def is_starting(self) -> bool:
        """Whether it was started and is not ready yet."""
        return self._socket is not None and not self._ready

    @property
    def failure(self) -> str:
        """Why it did not get ready; empty if it did, or was told to a program since."""
        return self._failure

    # -- its life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start it unless it runs; it imports while the agent goes on. What fails is told to the next program."""
        if self._socket is not None:
            return
        self._failure, self._words, self._how, self._ready = "", b"", "", False
        opened: List[int] = []
        try:
            ours = self._spawn(opened)
        except (spawn.SpawnError, OSError) as error:
            why = error.text if isinstance(error, spawn.SpawnError) else posix.strerror(error.errno or 0)
            self._failure = "the launcher can't be started: " + why
            for fd in opened:
                posix.close(fd)
            return
        said = opened.pop(0)
        for fd in opened:
            posix.close(fd)
        self.pids.add(self.pid)
        self.owner.family.reserve(self.pid)
        self._socket, self._said, self._writing = ours, said, False
        self.agent.watch_fd(ours.fileno(), select.EPOLLIN, self._on_socket)
        self.agent.watch_fd(said, select.EPOLLIN, self._on_words)
        self.agent.after(self, self.config.seconds, self._on_late)

    def _spawn(self, opened: List[int]) -> socket:
        """Start the process; ``opened`` gets where it is heard, then its own ends. Raises SpawnError, OSError."""
        import _socket
        import fcntl

        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003  # it takes no keywords
        opened.extend(posix.pipe2(posix.O_CLOEXEC))
        posix.set_blocking(opened[0], False)
        opened.extend(posix.pipe2(posix.O_CLOEXEC))
        # Its input ends at once.
        posix.close(opened.pop())
        # Out of the way of the numbers that the child gives to its descriptors.
        opened.append(fcntl.fcntl(theirs.fileno(), _F_DUPFD_CLOEXEC, _SPARE_FD))
        theirs.close()
        marker = self.owner.family.marker(RESERVED) + b"0" * 9  # room for any stream's number
        env = {tree.MARKER: marker, **self.agent.env, **self.config.env, tree.MARKER: marker}
        argv = [*self.config.argv, b"%d" % SOCKET_FD]
        launch = spawn.Launch(argv, env, b"/", spawn.find_identity(self.agent.user))
        _, says, nothing, channel = opened
        launch.fds = (nothing, says, says, channel)
        # It keeps the agent's own limits: each program takes over those meant for programs.
        launch.limits = ()
        self.pid = self.owner.spawner.start(launch)
        return ours

    def _on_late(self) -> None:
        self._lose("the launcher was not ready within %g s" % self.config.seconds)

    def on_death(self, pid: int, status: int) -> None:
        """Note that its process, or that of an earlier one, was reaped."""
        self.owner.family.release(pid)
        self.pids.discard(pid)
        if pid != self.pid:
            return
        self.pid = 0
        self._how = " (signal %d)" % (status & 0x7F) if status & 0x7F else " (exit code %d)" % (status >> 8 & 0xFF)
        # The socket ends when the last process between it and a program has passed on that program's pid.
        self._receive()
        if self._socket is not None:
            self.agent.after(self, _DEATH_SECONDS, self._on_end)

    def _on_hang_up(self, channel: socket) -> None:
        """Wait a moment for its process to be reaped, which says how it ended."""
        if self.pid in self.pids:
            self.agent.forget_fd(channel.fileno())
            self.agent.after(self, _DEATH_SECONDS, self._on_end)
        else:
            self._on_end()

    def _on_end(self) -> None:
        self._lose("the launcher ended%s%s" % ("" if self._ready else " before it was ready", self._how))

    def _on_silence(self) -> None:
        self._lose("the launcher did not answer")

    def _lose(self, text: str, *, last_words: bool = True) -> None:
        """Give up on this process; one that was ready before has a successor, which gets what was not answered."""
        if self._socket is None:
            return
        self._on_words(0)
        last = self._words.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if last and last_words:
            text = text + ": " + last
        self._disconnect(self._socket)
        lost = {request.stream.ident: request for request in [*self._asked.values(), *self._queue]}
        self._asked.clear()
        self._queue = []
        if not self._ready and not lost:
            self._failure = text
        for request in lost.values():
            if request.begun:
                # It may have started the program and not lived to say so.  control: process.kill-tree
                for proc in self.owner.family.members(request.stream.ident):
                    tree.send_signal(proc.pid, tree.SIGKILL)
            if self._ready and not request.repeated and not request.unwanted:
                request.begun, request.at, request.repeated = False, 0, True
                self._queue.append(request)
            else:
                request.stream.refused(wire.END_REFUSED, errno.EIO, text)
        if self._queue:
            self._restart()

    def _disconnect(self, channel: socket) -> None:
        for key in (self, "launcher-send", "launcher-answer"):
            self.agent.timers.pop(key, None)
        self.agent.forget_fd(channel.fileno())
        channel.close()
        self._socket = None
        if self._said >= 0:
            self.agent.forget_fd(self._said)
            posix.close(self._said)
            self._said = -1
        if self.pid:
            tree.send_signal(self.pid, tree.SIGKILL)

    def _restart(self) -> None:
        """Start another one for what is in the queue."""
        self.start()
        if self._failure:
            text, self._failure = self._failure, ""
            failed, self._queue = self._queue, []
            for request in failed:
                request.stream.refused(wire.END_REFUSED, errno.EIO, text)

    def _on_words(self, _events: int) -> None:
        """Keep the end of what it prints: the last line explains why it died."""
        while self._said >= 0:
            try:
                data = posix.read(self._said, 4096)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.agent.forget_fd(self._said)
                posix.close(self._said)
                self._said = -1
                return
            self._words = (self._words + data)[-_LAST_WORDS:]

    # -- requests ---------------------------------------------------------------------------

    def request(self, stream: execs.Exec, launch: spawn.Launch) -> Request:
        """Return the request for a program; starts the launcher if it has died. Raises SpawnError."""
        if self._socket is None:
            failure, self._failure = self._failure, ""
            if not failure:
                self.start()
                failure, self._failure = self._failure, ""
            if failure:
                raise spawn.SpawnError(wire.END_REFUSED, errno.EIO, failure)
        return Request(stream, launch)

    def submit(self, request: Request) -> None:
        """Ask for a program: its stream's ``launched`` or ``refused`` is called, perhaps before this returns."""
        self._queue.append(request)
        self._pump()

    def cancel(self, request: Request) -> None:
        """Take back a request if nothing of it was sent; else its program is killed when it is named."""
        request.unwanted = True
        if request in self._queue and not request.begun:
            self._queue.remove(request)
            request.stream.refused(wire.END_REFUSED, errno.ECANCELED, "killed before it was started")

    def _pump(self) -> None:
        """Send what the socket takes."""
        blocked = False
        while self._ready and self._queue and self._socket is not None and not blocked:
            request = self._queue[0]
            data, beside = request.chunk()
            try:
                self._socket.sendmsg([data], beside)
            except BlockingIOError:
                blocked = True
            except OSError as error:
                if error.errno not in (errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS):
                    self._on_end()
                    return
                self.agent.after("launcher-send", _RETRY_SECONDS, self._pump)
                return
            else:
                request.begun = True
                request.at += CHUNK
                self._asked[request.stream.ident] = request
                if "launcher-answer" not in self.agent.timers:
                    self.agent.after("launcher-answer", _ANSWER_SECONDS, self._on_silence)
                if request.at >= len(request.body):
                    self._queue.pop(0)
        if self._socket is not None and blocked != self._writing:
            self._writing = blocked
            fd = self._socket.fileno()
            self.agent.forget_fd(fd)
            events = select.EPOLLIN | (select.EPOLLOUT if blocked else 0)
            self.agent.watch_fd(fd, events, self._on_socket)

    # -- answers ----------------------------------------------------------------------------

    def listen(self) -> None:
        """Read what is there to be read."""
        self._receive()

    def _on_socket(self, events: int) -> None:
        if events & ~select.EPOLLOUT:
            self._receive()
        self._pump()

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._on_hang_up(self._socket)
                return
            self._answer(data)

    def _answer(self, data: bytes) -> None:
        """Handle one message; a launcher that sends nonsense is given up."""
        kind, ident, value = data[0], int.from_bytes(data[1:5], "big"), int.from_bytes(data[5:9], "big")
        text = data[9:].decode("utf-8", "replace")
        if kind == READY and not self._ready:
            self._ready = True
            self.agent.timers.pop(self, None)
            self._pump()
            return
        if kind == FAILED and not self._ready:
            self._lose(text, last_words=False)
            return
        if kind == LIMITS:
            self.owner.note_limits(ident, value & 7)
            return
        request = self._asked.pop(ident, None)
        self.agent.timers.pop("launcher-answer", None)
        if self._asked:
            self.agent.after("launcher-answer", _ANSWER_SECONDS, self._on_silence)
        if request is None or request in self._queue or kind not in (STARTED, REFUSED):
            self._lose("the launcher broke its protocol")
        elif kind == REFUSED:
            end, number = value >> 16, value & 4095
            request.stream.refused(end if end in _ENDS else wire.END_REFUSED, number, text)
        elif value <= 1 or value in (posix.getpid(), self.pid):
            request.stream.refused(wire.END_REFUSED, errno.EIO, "the launcher named a wrong process")
        else:
            request.stream.launched(value)


def _native(number: int) -> bytes:
    import sys

    return number.to_bytes(4, sys.byteorder)


def _blob(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _body(launch: spawn.Launch) -> bytes:
    """Return a request: three counts, then the directory, arguments, variables and limits."""
    limits = launch.limits or ()
    parts = [len(items).to_bytes(4, "big") for items in (launch.argv, launch.env, limits)]
    parts.append(_blob(launch.cwd))
    parts.extend(_blob(item) for item in launch.argv)
    parts.extend(_blob(name) + _blob(value) for name, value in launch.env.items())
    for limit in limits:
        parts.extend(number.to_bytes(8, "big", signed=True) for number in limit)
    return b"".join(parts)
