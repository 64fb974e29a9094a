"""The agent's loop: one thread, one epoll, everything non-blocking and bounded."""

from __future__ import annotations

import errno
import posix
import select
import time

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, NoReturn, Tuple, Union

    Handler = Callable[[int], None]
    Job = Iterator[bool]

leave = posix._exit  # pyright: ignore[reportPrivateUsage]  # its only name
"""End this process at once, without any cleanup."""
READ_CHUNK = 262144
_STILL_SECONDS = 0.005
HIGH_WATER = 1048576
"""Bytes waiting for the host at which the agent stops everything else until they are gone."""


class Stream:
    """One request of the host. Subclasses override what their kind of request accepts."""

    def __init__(self, agent: Agent, ident: int) -> None:
        self.agent = agent
        self.ident = ident
        self.window = agent.window
        """Bytes that may still be sent on channel 0."""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for nothing but the guest's own programs."""
        return False

    def send(self, kind: int, *values: Any) -> None:
        """Send a control message on this stream."""
        self.agent.send(kind, self.ident, wire.encode(kind, values))

    def end(self, kind: int = wire.END_OK, number: int = 0, text: str = "") -> None:
        """Say the last word on this stream."""
        if self.agent.streams.pop(self.ident, None) is not None:
            self.send(wire.END, kind, number, text)

    def end_with(self, error: OSError) -> None:
        """Say the last word after a failed system call."""
        self.end(wire.END_ERRNO, (error.errno or errno.EIO) & 4095, posix.strerror(error.errno or errno.EIO))

    def on_data(self, data: bytes) -> None:
        """Take bytes from the host; streams that want none drop them."""

    def on_eof(self, _channel: int = 0) -> None:
        """The host sends no more data."""

    def on_credit(self, _channel: int, amount: int) -> None:
        """The host can take more data."""
        self.window += amount

    def on_discard(self, channel: int) -> None:
        """The host wants no more output of this channel."""

    def on_resize(self, rows: int, columns: int) -> None:
        """The host's terminal changed its size."""

    def on_answer(self, _size: int) -> None:
        """The host answers a call of a program."""
        raise wire.WireError("nothing was asked")

    def on_close(self) -> None:
        """The host has lost interest."""
        self.end(wire.END_CANCELLED)


class CallStream(Stream):
    """A request that is served at once by a function."""

    def run(self, function: Callable[..., None], *fields: Any) -> None:
        """Call the function and end with what comes of it."""
        try:
            function(self, *fields)
        except OSError as error:
            self.end_with(error)
        except ValueError as error:
            self.end(wire.END_REFUSED, errno.EINVAL, str(error))
        else:
            self.end()


class JobStream(Stream):
    """A request served by a generator in slices, so that none can hold up the loop.

    The generator yields True to be run again soon and False to wait for credit or data.
    """

    job: Job

    def start(self, job: Job) -> None:
        """Run the first slice."""
        self.job = job
        self.step()

    def step(self) -> None:
        """Run one slice."""
        try:
            if next(self.job):
                self.agent.runnable[self.ident] = self
        except StopIteration:
            self.end()
        except OSError as error:
            self.end_with(error)
        except ValueError as error:
            self.end(wire.END_REFUSED, errno.EINVAL, str(error))

    def on_credit(self, _channel: int, amount: int) -> None:
        """Go on where the job waited for credit."""
        self.window += amount
        self.agent.runnable[self.ident] = self

    def on_close(self) -> None:
        """Stop the job."""
        # Closing the generator runs its cleanup: temporary files go, descriptors close.
        self.job.close()  # type: ignore[attr-defined]  # every job is a generator
        self.end(wire.END_CANCELLED)


class Agent:
    """Everything the agent knows: its stream to the host, its requests, timers and jobs."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.window = 262144
        self.drain = 0.25
        self.max_streams = 256
        self.workspace = b"/"
        self.env: Dict[bytes, bytes] = {}
        self.user = b""
        self.features: List[bytes] = []
        self.streams: Dict[int, Stream] = {}
        self.runnable: Dict[int, JobStream] = {}
        self.timers: Dict[object, Tuple[float, Callable[[], None]]] = {}
        self.serve: Callable[[int, int, List[Any]], None] = _not_ready
        """Handler of control messages that open a stream or concern the session."""
        self.is_still = False
        """A snapshot may be made at any moment, and this may be a restored child by now."""
        self._highest = 0
        self._handlers: Dict[int, Handler] = {}
        self._in = bytearray()
        self._out = bytearray()
        self._blocked = False
        self._poll = select.epoll()
        posix.set_blocking(fd, False)
        self.watch_fd(fd, select.EPOLLIN, self._on_stream)

    def renumber(self) -> None:
        """Forget every stream: another host is at the other end, and begins at 1."""
        self.streams.clear()
        self.runnable.clear()
        self._highest = 0

    def listen_anew(self) -> None:
        """Register the stream again: restored in gVisor, an epoll hears nothing of a host's file until then."""
        self._poll.unregister(self.fd)
        self._poll.register(self.fd, select.EPOLLIN | (select.EPOLLOUT if self._blocked else 0))

    # -- descriptors ------------------------------------------------------------------------

    def watch_fd(self, fd: int, events: int, handler: Handler) -> None:
        """Call ``handler`` whenever one of ``events``, or a hang-up, is there."""
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def forget_fd(self, fd: int) -> None:
        """Undo ``watch_fd``; idempotent."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    # -- sending ----------------------------------------------------------------------------

    def send(self, kind: int, stream: int, payload: Union[bytes, bytearray] = b"") -> None:
        """Queue one frame; it leaves at the end of this turn of the loop at the latest."""
        out = self._out
        out += len(payload).to_bytes(4, "big")
        out.append(kind)
        out += stream.to_bytes(4, "big")
        out += payload
        if len(out) >= READ_CHUNK and not self._blocked:
            self.flush()
        if len(out) >= HIGH_WATER:
            # The host never stops reading, whatever its callers do, so this ends soon.
            self.flush_all()

    def flush(self) -> None:
        """Send what the socket takes now."""
        out = self._out
        try:
            while out:
                del out[: posix.write(self.fd, out)]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOBUFS):
                self.die(0)
            # The sandbox is at its memory limit; something is about to be killed for it.
            time.sleep(0.001)
        if bool(out) != self._blocked:
            self._blocked = bool(out)
            self._poll.modify(self.fd, select.EPOLLIN | (select.EPOLLOUT if out else 0))

    def flush_all(self, timeout: float = 10.0) -> None:
        """Wait until everything is sent, for at most ``timeout`` seconds without progress."""
        gate = select.poll()
        gate.register(self.fd, select.POLLOUT)
        self.flush()
        while self._out and gate.poll(timeout * 1000):
            self.flush()

    # -- receiving --------------------------------------------------------------------------

    def _on_stream(self, events: int) -> None:
        if events & ~select.EPOLLOUT:
            try:
                data = posix.read(self.fd, READ_CHUNK)
            except BlockingIOError:
                data = None
            except OSError:
                data = b""
            if data == b"":
                # The host is gone: nothing may outlive it.  control: process.kill-tree
                self.die(0)
            if data:
                self._in += data
                self._parse()
        if self._blocked:
            self.flush()

    def _parse(self) -> None:
        buffer = self._in
        at = 0
        while len(buffer) - at >= wire.HEADER:
            size = int.from_bytes(buffer[at : at + 4], "big")
            if size > wire.MAX_HOST_PAYLOAD:
                raise wire.WireError("oversize frame")
            end = at + wire.HEADER + size
            if len(buffer) < end:
                break
            payload = bytes(buffer[at + wire.HEADER : end])
            self._dispatch(buffer[at + 4], int.from_bytes(buffer[at + 5 : at + 9], "big"), payload)
            at = end
        if at:
            del buffer[:at]

    def _dispatch(self, kind: int, ident: int, payload: bytes) -> None:
        stream = self.streams.get(ident)
        if kind == wire.DATA:
            if stream is not None:
                stream.on_data(payload)
            return
        fields = wire.decode(kind, payload)
        handler = _STREAM_HANDLERS.get(kind)
        if handler is None:
            if ident:
                if ident <= self._highest:
                    raise wire.WireError("stream id used twice")
                self._highest = ident
            self.serve(kind, ident, fields)
        elif stream is not None:
            getattr(stream, handler)(*fields)
        elif ident > self._highest:
            # A lower one is fine: frames can cross the END that closed their stream.
            raise wire.WireError("unknown stream")

    # -- the loop ---------------------------------------------------------------------------

    def after(self, key: object, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, later; a second call with the same key moves it."""
        self.timers[key] = (time.monotonic() + seconds, callback)

    def run(self) -> NoReturn:
        """Serve until the process ends."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait for something to happen and handle it."""
        timeout = -1.0
        if self.runnable:
            timeout = 0.0
        elif self.timers:
            timeout = max(0.0, min(self.timers.values(), key=_when)[0] - time.monotonic()) + 0.001
        if self.is_still:
            timeout = _STILL_SECONDS
            self.listen_anew()
        for fd, events in self._poll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        if self.timers:
            self._run_timers()
        if self.runnable:
            self._run_jobs()
        if self._out and not self._blocked:
            self.flush()

    def _run_timers(self) -> None:
        now = time.monotonic()
        for key, (when, callback) in list(self.timers.items()):
            # An earlier callback of this round may have removed or moved it.
            if when <= now and self.timers.get(key) == (when, callback):
                del self.timers[key]
                callback()

    def _run_jobs(self) -> None:
        jobs = self.runnable
        self.runnable = {}
        for ident, job in jobs.items():
            if ident in self.streams:
                job.step()

    def die(self, status: int) -> NoReturn:
        """End the agent and everything that it started, at once."""
        from . import tree

        tree.kill_everything()
        leave(status)


def _when(item: Tuple[float, Callable[[], None]]) -> float:
    return item[0]


def _not_ready(_kind: int, _ident: int, _fields: List[Any]) -> None:
    raise wire.WireError("not ready")


_STREAM_HANDLERS: Dict[int, str] = {
    wire.EOF: "on_eof",
    wire.CREDIT: "on_credit",
    wire.DISCARD: "on_discard",
    wire.RESIZE: "on_resize",
    wire.CLOSE: "on_close",
    wire.ANSWER: "on_answer",
}
"""What goes to an open stream; every other message opens one or concerns the session."""
