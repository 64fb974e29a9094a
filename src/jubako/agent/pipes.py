"""The host's end of a program's pipes: output read under credit, input buffered."""

from __future__ import annotations

import posix
import select
import sys

from . import core, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import execs

_END_OF_TRANSMISSION = b"\x04"
_ORDER = sys.byteorder


class Output:
    """One output of a program, read only as far as the host gave credit."""

    def __init__(self, exec_: execs.Exec, channel: int, fd: int) -> None:
        self.exec = exec_
        self.agent = exec_.agent
        self.channel = channel
        self.fd = fd
        self.credit = exec_.agent.window
        self.discard = False
        self.told = False
        """The host knows that no more comes."""
        self.owed = 0
        self._armed = False
        self.arm()

    def arm(self) -> None:
        """Listen exactly while something can be done with what comes: a hang-up can't be masked."""
        wanted = self.fd >= 0 and (self.credit > 0 or self.discard)
        if wanted and not self._armed:
            self.agent.watch_fd(self.fd, select.EPOLLIN, self._on_ready)
        elif self._armed and not wanted:
            self.agent.forget_fd(self.fd)
        self._armed = wanted

    def _on_ready(self, _events: int) -> None:
        self.read()

    def read(self) -> bool:
        """Read once. Returns whether there may be more to read now."""
        if self.fd < 0:
            return False
        try:
            if self.discard:
                data = posix.read(self.fd, core.READ_CHUNK)
            else:
                data = posix.read(self.fd, min(self.credit, wire.MAX_DATA))
        except BlockingIOError:
            return False
        except OSError:
            # A terminal whose last user is gone answers EIO.
            data = b""
        if not data:
            self.close()
            return False
        if not self.discard:
            self.credit -= len(data)
            self.owed -= len(data)
            self.agent.send(wire.ERRDATA if self.channel else wire.DATA, self.exec.ident, data)
            if self.credit <= 0:
                self.arm()
                return False
            if self.exec.exited and self.owed <= 0:
                self.exec.settle()
        return True

    def drain(self) -> int:
        """Pass on what the pipe holds now, and return how much of it must wait for credit."""
        self.owed = self.waiting()
        while not self.discard and self.owed > 0 and self.credit > 0 and self.read():
            pass
        left = max(0, self.owed)
        if left == 0 and self.credit > 0:
            self.read()
        return left

    def waiting(self) -> int:
        """Return how many bytes the pipe holds."""
        if self.fd < 0 or self.discard:
            return 0
        import fcntl  # loaded while the host answered HELLO

        try:
            answer: bytes = fcntl.ioctl(self.fd, 0x541B, b"\0\0\0\0")  # FIONREAD
        except OSError:
            return 0
        return int.from_bytes(answer, _ORDER)

    def drop(self) -> None:
        """Read on, to nowhere: whoever holds the pipe must neither block nor die."""
        self.discard = True
        self.owed = 0
        self.arm()

    def tell(self) -> None:
        """Say once that no more comes."""
        if not self.told:
            self.told = True
            self.exec.send(wire.EOF, self.channel)

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self.fd >= 0:
            if self._armed:
                self.agent.forget_fd(self.fd)
                self._armed = False
            posix.close(self.fd)
            self.fd = -1
            self.exec.on_output_closed(self)


class Input:
    """A program's input, buffered up to the window that the host was given."""

    def __init__(self, stream: core.Stream, fd: int, *, tty: bool) -> None:
        self.stream = stream
        self.agent = stream.agent
        self.fd = fd
        self.tty = tty
        self._buffer = bytearray()
        self._taken = 0
        self._closing = False
        self._armed = False

    def feed(self, data: bytes) -> None:
        """Write what the pipe takes and keep the rest."""
        if self.fd >= 0 and not self._closing:
            self._buffer += data
            self._pump()

    def finish(self) -> None:
        """Close once everything is written; a terminal is sent its end-of-file character instead."""
        if self.fd >= 0 and not self._closing:
            self._closing = True
            if self.tty:
                self._buffer += _END_OF_TRANSMISSION
            self._pump()

    def _on_ready(self, _events: int) -> None:
        self._pump()

    def _pump(self) -> None:
        try:
            while self._buffer:
                count = posix.write(self.fd, self._buffer[: wire.MAX_DATA])
                del self._buffer[:count]
                self._taken += count
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            self.stream.send(wire.DISCARD, 0)
            return
        if self._taken and not self._closing and (not self._buffer or self._taken >= self.agent.window // 4):
            self.stream.send(wire.CREDIT, 0, self._taken)
            self._taken = 0
        if bool(self._buffer) != self._armed:
            if self._buffer:
                self.agent.watch_fd(self.fd, select.EPOLLOUT, self._on_ready)
            else:
                self.agent.forget_fd(self.fd)
            self._armed = bool(self._buffer)
        if self._closing and not self._buffer:
            self.close()

    def close(self) -> None:
        """Close the descriptor and forget what was not written; idempotent."""
        if self.fd >= 0:
            if self._armed:
                self.agent.forget_fd(self.fd)
            posix.close(self.fd)
            self.fd = -1
            self._buffer.clear()
