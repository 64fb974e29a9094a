"""Snapshots: being still while one is made, and becoming somebody else in what is restored from it.

A restored sandbox is the same bytes as its source, with another host at the other end of the stream.
Before anything runs there it takes an identity of its own.
"""

from __future__ import annotations

import posix
import sys
import time

from . import tree, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    from .main import Main

_LOOK_SECONDS = 0.005
_SETTLE_SECONDS = 0.25
"""How long processes that a program left behind may take to end."""
_HOSTNAME, _MACHINE_ID, _HOSTS = "/etc/hostname", "/etc/machine-id", "/etc/hosts"
_MAX_FILE = 65536


class Snapshots:
    """PREPARE, and what follows it."""

    def __init__(self, main: Main) -> None:
        self.main = main
        self.agent = main.agent
        self._deadline = 0.0
        self._timers: Dict[object, float] = {}
        """What was left of each timer when the agent became still."""

    def prepare(self) -> None:
        """Serve PREPARE: answer once nothing moves, or once it is clear that something does."""
        self._deadline = time.monotonic() + _SETTLE_SECONDS
        self._look()

    def _look(self) -> None:
        busy = [stream for stream in self.agent.streams.values() if not stream.is_idle]
        execs = self.main.execs()
        launcher = execs.launcher
        if busy:
            self._answer(len(execs.by_pid), "%d requests are open" % len(busy))
        elif launcher is not None and launcher.failure:
            self._answer(0, launcher.failure)
        elif launcher is not None and launcher.is_starting:
            # What a snapshot is for: it is worth waiting for.
            self._deadline = time.monotonic() + _SETTLE_SECONDS
            self.agent.after(self, _LOOK_SECONDS, self._look)
        else:
            execs.reap()
            own = launcher.pids if launcher is not None else ()
            running = len([proc for proc in tree.everything() if proc.pid not in own])
            if running and time.monotonic() < self._deadline:
                self.agent.after(self, _LOOK_SECONDS, self._look)
            else:
                self._answer(running, "%d processes run inside" % running if running else "")

    def _answer(self, running: int, text: str) -> None:
        if not text:
            now = time.monotonic()
            self._timers = {key: when - now for key, (when, _) in self.agent.timers.items()}
            self.agent.serve = self._still
            self.agent.is_still = True
        self.agent.send(wire.PREPARED, 0, wire.encode(wire.PREPARED, (int(not text), running, text)))
        self.agent.flush_all()

    def _still(self, kind: int, ident: int, fields: List[Any]) -> None:
        """Take exactly one of two messages: the source goes on, or this is a restored child."""
        if ident or kind not in (wire.CONTINUE, wire.RENEW):
            raise wire.WireError("only CONTINUE or RENEW may follow PREPARED")
        # Once more: the restored kernel may have gone on with the wait before, and found the message there.
        self.agent.listen_anew()
        self.main.resume()
        self.agent.is_still = False
        if kind == wire.RENEW:
            self._renew(fields)

    # -- a restored child -------------------------------------------------------------------

    def _renew(self, fields: List[Any]) -> None:
        """Serve RENEW: nothing of the source's session is left, and its identity is replaced."""
        hostname, machine_id, seed, env, window, streams, drain, tools = fields
        agent = self.agent
        now = time.monotonic()
        for key, left in self._timers.items():
            if key in agent.timers:
                # The clock may have jumped between the snapshot and now.
                agent.timers[key] = (now + left, agent.timers[key][1])
        agent.renumber()
        agent.env.update(dict(env))
        agent.window, agent.max_streams, agent.drain = window, streams, drain / 1000
        self.main.execs().renew()
        missing = self.main.renew_tools(wanted=bool(tools))
        # control: snapshot identity - host name, machine id, random
        missing += _identify(hostname, machine_id) if self.main.renewable else [b"hostname", b"machine-id", b"hosts"]
        _stir(seed)
        version = "%d.%d.%d" % sys.version_info[:3]
        facts = (wire.PROTOCOL, wire.AGENT_VERSION, version, posix.getpid(), posix.geteuid(), *self.main.facts)
        agent.send(wire.RENEWED, 0, wire.encode(wire.RENEWED, (*facts, missing)))


def _identify(hostname: bytes, machine_id: bytes) -> List[bytes]:
    """Take another host name and machine id; return the parts that are still the source's."""
    missing: List[bytes] = []
    old = posix.uname().nodename.encode()
    try:
        if old != hostname:
            _set_hostname(hostname)
        _replace(_HOSTNAME, hostname)
    except (OSError, ImportError):
        missing.append(b"hostname")
    try:
        _replace(_MACHINE_ID, machine_id)
    except OSError:
        missing.append(b"machine-id")
    try:
        _rename_in_hosts(old, hostname)
    except OSError:
        missing.append(b"hosts")
    return missing


def _set_hostname(hostname: bytes) -> None:
    from . import native, walls

    walls.use_capability()
    try:
        native.call("sethostname", hostname, len(hostname))
    finally:
        walls.rest_capability()


def _replace(path: str, text: bytes) -> None:
    """Write a file of one line, unless it holds that already or does not exist. Raises OSError."""
    if _read(path).strip() not in (text, b""):
        _write(path, text + b"\n")


def _rename_in_hosts(old: bytes, new: bytes) -> None:
    """Put one name in place of another in /etc/hosts. Raises OSError."""
    lines = [line.split() for line in _read(_HOSTS).splitlines()]
    if old != new and any(old in words for words in lines):
        changed = [[new if word == old else word for word in words] for words in lines]
        _write(_HOSTS, b"".join(b" ".join(words) + b"\n" for words in changed))


def _read(path: str) -> bytes:
    """Return a file, or nothing if there is none. Raises OSError."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return posix.read(fd, _MAX_FILE)
    finally:
        posix.close(fd)


def _write(path: str, text: bytes) -> None:
    fd = posix.open(path, posix.O_WRONLY | posix.O_TRUNC | posix.O_CLOEXEC)
    try:
        posix.write(fd, text)
    finally:
        posix.close(fd)


def _stir(seed: bytes) -> None:
    """Mix bytes into the kernel's random numbers, where that is allowed."""
    try:
        fd = posix.open("/dev/urandom", posix.O_WRONLY | posix.O_CLOEXEC)
    except OSError:
        return
    try:
        posix.write(fd, seed)
    except OSError:
        # A kernel that takes none has its own; the launcher's programs get their seeds from it.
        pass
    finally:
        posix.close(fd)
