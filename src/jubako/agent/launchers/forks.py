"""A launcher's side of the socket to the agent: each request becomes a fork of this process.

``serve(fd, run)`` tells the agent that the launcher is ready and then waits. For a request it forks
twice, so that the program is an orphan, which the agent adopts. The program is a process like one
that was executed: a session of its own, default signals, no descriptors but its three. Then it calls
``run(argv, env, cwd)`` and ends with what that returns.

The process must have one thread: a fork copies no other, and locks they held would stay locked.
"""

from __future__ import annotations

import _socket
import gc
import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Callable, Dict, List, NoReturn, Optional, Tuple

    Run = Callable[[List[str], Dict[str, str], str], int]
    Note = Callable[[int], None]
    Check = Callable[[List[str], Dict[str, str]], Optional[Tuple[int, str]]]
else:
    import _signal

READY, FAILED, STARTED, REFUSED, LIMITS = 1, 2, 3, 4, 5
MEMORY, OPEN_FILES, TIME = 1, 2, 4
"""Limits that a program can be said to have run into, for ``Process.note``."""
END_REFUSED, END_NOT_FOUND, END_NOT_EXECUTABLE = 2, 3, 4
"""Why ``check`` refuses a program: it makes no sense here (an error), status 127, status 126."""
CHUNK = 32768
MAX_BODY = 8 * 1024 * 1024
_HEADER = 8
_MARKER = b"JUBAKO_EXEC_ID="
_PR_SET_DUMPABLE = 4
_ARG_START = 45
"""Where the addresses of arguments and environment begin in /proc/self/stat, behind the name."""
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")
_MEANING = {11: "process limit reached", 12: "not enough memory to start it"}


def _addresses() -> "Tuple[int, int, int, int]":
    """Return address and size of the arguments and of the environment; 0 where /proc does not tell."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0, 0, 0, 0
    numbers = [int(field) for field in fields[_ARG_START : _ARG_START + 4]]
    if len(numbers) < 4 or not all(numbers):
        return 0, 0, 0, 0
    return numbers[0], numbers[1] - numbers[0], numbers[2], numbers[3] - numbers[2]


class _Image:
    """What others see of this process in /proc: the kernel reads it from the process's own memory.

    A fork shows its parent's arguments and environment. The agent finds a program's orphans by a
    variable, so it has to be the program's own; the arguments are for people.
    """

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        self._library = ctypes.CDLL(None)
        self._title, self._title_size, start, size = _addresses()
        self._marker, self._marker_size = self._find_marker(start, size)

    def _find_marker(self, start: int, size: int) -> "Tuple[int, int]":
        """Return where the variable lies, and its length; 0 when there is none."""
        if size:
            found = (b"\0" + self._ctypes.string_at(start, size)).find(b"\0" + _MARKER)
            return (start + found, len(self._ctypes.string_at(start + found))) if found >= 0 else (0, 0)
        # This /proc tells no addresses. The C library's own list leads to the same place if nobody changed it.
        strings = self._ctypes.POINTER(self._ctypes.c_void_p).in_dll(self._library, "environ")
        at = 0
        while strings[at]:
            text = self._ctypes.string_at(strings[at])
            if text.startswith(_MARKER):
                return int(strings[at]), len(text)
            at += 1
        return 0, 0

    def mark(self, marker: bytes) -> None:
        """Show another value of the agent's variable."""
        if self._marker and marker and len(_MARKER) + len(marker) <= self._marker_size:
            self._ctypes.memmove(self._marker + len(_MARKER), marker + b"\0", len(marker) + 1)

    def show_arguments(self, argv: "List[bytes]") -> None:
        """Show other arguments, cut to the room there is."""
        if self._title_size < 2:  # no /proc, or one without addresses
            return
        title = b" ".join(argv).replace(b"\0", b" ")[: min(self._title_size - 2, 2048)]
        # The kernel takes a last byte that is not NUL as the sign of a text in place of arguments.
        padding = bytes(self._title_size - len(title) - 1) + b"."
        self._ctypes.memmove(self._title, title + padding, self._title_size)

    def set_dumpable(self, value: int) -> None:
        """Let others of this user trace the process and open its descriptors, or not."""
        self._library.prctl(_PR_SET_DUMPABLE, value, 0, 0, 0)


class _Request:
    def __init__(self, ident: int, body: bytes, fds: "Tuple[int, ...]") -> None:
        self.ident = ident
        self.fds = fds
        self.keep: "Tuple[int, ...]" = ()
        self.on_note: "Optional[Callable[[Note], None]]" = None
        self._body = body
        self._at = 0
        counts = [self._number(4) for _ in range(3)]
        if sum(counts) > len(body):
            raise ValueError("more items than bytes")
        self.cwd = self._blob()
        self.argv = [self._blob() for _ in range(counts[0])]
        self.env = {self._blob(): self._blob() for _ in range(counts[1])}
        self.limits = [(self._number(8), self._number(8), self._number(8)) for _ in range(counts[2])]
        if self._at != len(body) or not self.argv:
            raise ValueError("not one request")

    def _take(self, size: int) -> bytes:
        part = self._body[self._at : self._at + size]
        if len(part) != size:
            raise ValueError("short request")
        self._at += size
        return part

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big", signed=size == 8)

    def _blob(self) -> bytes:
        return self._take(self._number(4))


def fail(fd: int, text: str) -> "NoReturn":
    """Tell the agent why this launcher can't serve, and end."""
    _send(_socket.socket(fileno=fd), FAILED, 0, 0, text)
    os._exit(1)


def _send(channel: "_socket.socket", kind: int, ident: int, value: int, text: str = "") -> None:
    words = text.encode("utf-8", "replace")[:1024].decode("utf-8", "ignore").encode()
    channel.send(bytes((kind,)) + ident.to_bytes(4, "big") + value.to_bytes(4, "big") + words)


def threads() -> int:
    """Return how many threads this process has; 1 where that can't be seen."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def serve(
    fd: int,
    run: "Run",
    check: "Optional[Check]" = None,
    keep: "Tuple[int, ...]" = (),
    on_note: "Optional[Callable[[Note], None]]" = None,
) -> "NoReturn":
    """Serve the agent until it is gone. ``fd`` is the socket that the agent appended to the arguments.

    ``run`` is called in a process of its own and returns an exit code, or a signal's number, negated, to
    end by. ``check`` is called here first; what it returns refuses the program: one of the END kinds,
    and a text. Descriptors in ``keep`` stay open in programs. ``on_note`` is called in each of them with a
    function that tells the agent which limits the program has run into; only a program that can't reach
    the process's own descriptors may be given that.
    """
    os.set_inheritable(fd, False)
    if threads() != 1:
        fail(fd, "the launcher has more than one thread, so it can't fork safely")
    channel = _socket.socket(fileno=fd)
    image = _Image()
    # Programs run as the same user; the socket must stay out of their reach.  control: process.descriptors
    image.set_dumpable(0)
    _flush()
    gc.collect()
    # What is there now stays: no collection in a fork touches, and so copies, its pages.
    gc.freeze()
    _send(channel, READY, 0, 0)
    try:
        while True:
            request = _receive(channel)
            request.keep = (*keep, fd) if on_note else keep
            request.on_note = on_note
            _start(channel, image, request, run, check)
    except (OSError, ValueError) as error:
        _fatal("the agent's socket: " + str(error))


def _fatal(text: str) -> "NoReturn":
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    os._exit(1)


def _receive(channel: "_socket.socket") -> _Request:
    data, beside, flags, _ = channel.recvmsg(CHUNK + _HEADER, _socket.CMSG_SPACE(12), _socket.MSG_CMSG_CLOEXEC)
    if not data:
        os._exit(0)  # the agent is gone
    fds: "List[int]" = []
    for level, kind, raw in beside:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            fds += [int.from_bytes(raw[at : at + 4], sys.byteorder) for at in range(0, len(raw) - 3, 4)]
    size = int.from_bytes(data[4:_HEADER], "big")
    if len(fds) != 3 or size > MAX_BODY or flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
        raise ValueError("malformed request")
    body = bytearray(data[_HEADER:])
    while len(body) < size:
        part = channel.recv(CHUNK)
        if not part:
            os._exit(0)
        body += part
    return _Request(int.from_bytes(data[:4], "big"), bytes(body), tuple(fds))


def _start(channel: "_socket.socket", image: _Image, request: _Request, run: "Run", check: "Optional[Check]") -> None:
    """Fork the program, and say its pid or why there is none."""
    try:
        refusal = check([os.fsdecode(item) for item in request.argv], _text(request.env)) if check else None
        if refusal is None and threads() != 1:
            refusal = (END_REFUSED, "the launcher has got a second thread, so it can't fork safely")
        if refusal is not None:
            _send(channel, REFUSED, request.ident, refusal[0] << 16, refusal[1])
            return
        try:
            pid = os.fork()
        except OSError as error:
            _refuse(channel, request, error)
            return
        if pid == 0:
            _middle(channel, image, request, run)
        status = os.waitpid(pid, 0)[1]
        if status:
            _send(channel, REFUSED, request.ident, END_NOT_EXECUTABLE << 16 | 12, "it was killed while it was started")
    finally:
        for fd in request.fds:
            os.close(fd)


def _refuse(channel: "_socket.socket", request: _Request, error: OSError) -> None:
    number = error.errno or 5
    name = request.argv[0].decode("utf-8", "replace")[:200]
    text = name + ": " + _MEANING.get(number, os.strerror(number))
    _send(channel, REFUSED, request.ident, END_NOT_EXECUTABLE << 16 | number, text)


def _middle(channel: "_socket.socket", image: _Image, request: _Request, run: "Run") -> "NoReturn":
    """Fork again and end, so that the agent becomes the program's parent."""
    pid = -1
    try:
        try:
            pid = os.fork()
        except OSError as error:
            _refuse(channel, request, error)
            os._exit(0)
        if pid:
            _send(channel, STARTED, request.ident, pid)
            os._exit(0)
        _become(image, request)
        if request.on_note is not None:
            request.on_note(lambda limits: _send(channel, LIMITS, request.ident, limits))
        _finish(_call(run, request))
    finally:
        # Whatever went wrong: nothing comes back from here into the launcher's loop.
        os._exit(1 if pid else 126)


def _become(image: _Image, request: _Request) -> None:
    """Make this process what an executed program is; ends with 126 and a message if it can't be."""
    image.mark(request.env.get(_MARKER[:-1], b""))
    image.show_arguments(request.argv)
    os.setsid()
    for number, fd in enumerate(request.fds):
        os.dup2(fd, number)
    _close_others(request.keep)  # control: process.descriptors
    for number in range(1, _signal.NSIG):
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # SIGKILL, SIGSTOP and what the C library keeps
    # Python's own dispositions, as a fresh interpreter has them.
    for name in _IGNORED_BY_PYTHON:
        _signal.signal(getattr(_signal, name), _signal.SIG_IGN)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    try:
        for kind, soft, hard in request.limits:
            resource.setrlimit(kind, (soft, hard))  # control: resource.open-files
        os.chdir(request.cwd)
    except (OSError, ValueError) as error:
        os.write(2, ("the program can't be started: " + str(error) + "\n").encode("utf-8", "replace"))
        os._exit(126)
    os.environ.clear()
    os.environ.update(_text(request.env))
    image.set_dumpable(1)


def _close_others(keep: "Tuple[int, ...]") -> None:
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65536)))
    for number in numbers:
        if number > 2 and number not in keep:
            try:
                os.close(number)
            except OSError:
                continue  # that of the listing itself


def _text(env: "Dict[bytes, bytes]") -> "Dict[str, str]":
    return {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}


def _call(run: "Run", request: _Request) -> int:
    try:
        return run([os.fsdecode(item) for item in request.argv], _text(request.env), os.fsdecode(request.cwd))
    except BaseException:
        kind, error, trace = sys.exc_info()
        if kind is not None and error is not None:
            sys.excepthook(kind, error, trace)
        return 1


def _flush() -> bool:
    """Flush standard output and error; return whether that worked."""
    good = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            good = False
    return good


def _finish(code: int) -> "NoReturn":
    if not _flush() and code == 0:
        code = 120  # as CPython does
    if code < 0:
        _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)
