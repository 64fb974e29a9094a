"""Processes that belong to one exec, found in /proc, and their end.

A program's descendants are found by parentage, by its session, and, once they were orphaned and
left the session, by the environment marker that every exec is started with. A process that hides
all three is attributed to the only exec that is alive, if there is just one.
"""

from __future__ import annotations

import errno
import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Optional, Set

MARKER = b"JUBAKO_EXEC_ID"
SIGKILL, SIGCONT, SIGSTOP = 9, 18, 19
_FREEZE_ROUNDS = 16
_PROBABLY_NONE = 1
_ENVIRON_MAX = 262144
_EMPTY_LOOKS = 8


class Proc:
    """One line of /proc/<pid>/stat."""

    __slots__ = ("parent", "pid", "rss", "session", "state", "ticks")

    def __init__(self, pid: int, fields: List[bytes]) -> None:
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.ticks = int(fields[11]) + int(fields[12])
        self.rss = int(fields[21])


def _slurp(path: str, limit: int) -> bytes:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            # Not to see a process is not the same as that it is gone.
            raise
        return b""
    try:
        parts: List[bytes] = []
        while limit > 0:
            part = posix.read(fd, min(limit, 65536))
            if not part:
                break
            parts.append(part)
            limit -= len(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        posix.close(fd)


def scan() -> Dict[int, Proc]:
    """Return every visible process but the agent, by pid."""
    found: Dict[int, Proc] = {}
    own = posix.getpid()
    for name in posix.listdir("/proc"):
        if name.isdigit() and int(name) != own:
            line = _slurp("/proc/" + name + "/stat", 4096)
            if line:
                # The name in parentheses is the program's choice and may hold anything.
                found[int(name)] = Proc(int(name), line[line.rindex(b")") + 2 :].split())
    return found


def _children(procs: Dict[int, Proc]) -> Dict[int, List[int]]:
    children: Dict[int, List[int]] = {}
    for proc in procs.values():
        children.setdefault(proc.parent, []).append(proc.pid)
    return children


def below(roots: Iterable[int], procs: Dict[int, Proc]) -> Set[int]:
    """Return the roots and all their descendants."""
    children = _children(procs)
    seen: Set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid not in seen:
            seen.add(pid)
            todo.extend(children.get(pid, ()))
    return seen


def _marker(pid: int) -> Optional[bytes]:
    """Return the marker of a process, if it can be read and has one."""
    environ = b"\0" + _slurp("/proc/%d/environ" % pid, _ENVIRON_MAX)
    at = environ.find(b"\0" + MARKER + b"=")
    if at < 0:
        return None
    return environ[at + len(MARKER) + 2 :].split(b"\0", 1)[0]


class Family:
    """Who is whose: exec leaders by pid, kept while any process of theirs may be alive."""

    def __init__(self) -> None:
        self.own = posix.getpid()
        self.nonce = posix.urandom(8).hex().encode()
        self.leaders: Dict[int, int] = {}
        """Session id (the first program's pid) to exec id."""
        self.live: Set[int] = set()
        """Exec ids whose first program still runs."""
        self.adopted = 0
        """How many orphans were reaped so far."""

    def marker(self, ident: int) -> bytes:
        """Return the value of the environment marker of an exec."""
        return self.nonce + b".%d" % ident

    def started(self, ident: int, pid: int) -> None:
        """Note the first program of an exec."""
        # A recycled pid ends the claim of the older exec on that session.
        self.leaders[pid] = ident
        self.live.add(ident)
        if len(self.leaders) > 4096:
            for old in [pid for pid, exec_ in self.leaders.items() if exec_ and exec_ not in self.live][:2048]:
                del self.leaders[old]

    def reserve(self, pid: int) -> None:
        """Note a process that belongs to the agent and to no exec; it has the number 0."""
        self.leaders[pid] = 0

    def release(self, pid: int) -> None:
        """Undo ``reserve``, when the process has ended."""
        if self.leaders.get(pid) == 0:
            del self.leaders[pid]

    def exited(self, ident: int) -> None:
        """Note that the first program has ended; its descendants may live on."""
        self.live.discard(ident)

    def members(self, ident: int) -> List[Proc]:
        """Return the living processes of an exec, zombies left out."""
        procs = scan()
        wanted = {pid for pid, proc in procs.items() if self.leaders.get(proc.session) == ident}
        wanted.update(pid for pid in procs if self.leaders.get(pid) == ident)
        alone = not (self.live - {ident})
        for pid, proc in procs.items():
            if proc.parent != self.own or pid in wanted or pid in self.leaders:
                continue
            marker = _marker(pid)
            if marker == self.marker(ident):
                wanted.add(pid)
            elif alone and proc.session not in self.leaders and not (marker or b"").startswith(self.nonce + b"."):
                # It shed every mark, and there is nobody else whose it could be.
                wanted.add(pid)
        return [procs[pid] for pid in below(wanted, procs) if pid in procs and procs[pid].state not in b"ZX"]


def send_signal(pid: int, number: int) -> None:
    """Send a signal; no error when the process is gone or is somebody else's."""
    try:
        posix.kill(pid, number)
    except OSError:
        pass


def freeze(family: Family, ident: int) -> List[Proc]:
    """Stop an exec's processes until a look finds no new one, so that none can escape by forking."""
    stopped: Set[int] = set()
    members: List[Proc] = []
    for _ in range(_FREEZE_ROUNDS):
        members = family.members(ident)
        fresh = [proc.pid for proc in members if proc.pid not in stopped]
        if not fresh:
            break
        for pid in fresh:
            send_signal(pid, SIGSTOP)
            stopped.add(pid)
    return members


def freeze_all(family: Family, ident: int) -> List[Proc]:
    """Return an exec's processes from a moment at which nothing inside runs.

    A chain of processes that each fork and exit is faster than any look at /proc. One signal to all
    is atomic against fork, so afterwards the look is complete; what is not wanted goes on again.
    """
    before = scan()
    send_signal(-1, SIGSTOP)
    members = family.members(ident)
    wanted = {proc.pid for proc in members}
    for pid in scan():
        if pid not in wanted and not (pid in before and before[pid].state == b"T"):
            send_signal(pid, SIGCONT)
    return members


def kill_slices(family: Family, ident: int, seconds: float) -> Iterable[int]:
    """Kill an exec's processes, yielding how many are left until none is or the time is over."""
    deadline = time.monotonic() + seconds
    # Alone in its PID namespace the agent may signal everybody; elsewhere that would reach strangers.
    atomic = family.own == 1
    while True:
        adopted = family.adopted
        members = freeze(family, ident)
        left = len(members)
        for proc in members:
            send_signal(proc.pid, SIGKILL)
        if not left:
            yield _PROBABLY_NONE
            if family.adopted == adopted:
                yield 0
                return
            # Orphans came by while we looked: they may be links of a chain.
            members = freeze_all(family, ident) if atomic else []
            left = len(members)
            for proc in members:
                send_signal(proc.pid, SIGKILL)
            if atomic and not left:
                yield 0
                return
        yield left or 1
        if time.monotonic() > deadline:
            return


def everything() -> List[Proc]:
    """Return the agent's own descendants, which is everything when it is PID 1."""
    procs = scan()
    own = posix.getpid()
    if own == 1:
        return [proc for proc in procs.values() if proc.state not in b"ZX"]
    return [procs[pid] for pid in below([own], procs) if pid in procs and procs[pid].state not in b"ZX"]


def kill_everything() -> None:
    """Kill all descendants of the agent."""
    if posix.getpid() == 1:
        send_signal(-1, SIGKILL)  # control: process.kill-tree
        return
    # Without a PID namespace of our own, kill(-1) would reach strangers.
    for _ in range(16):
        try:
            found = everything()
        except OSError:
            return
        for proc in found:
            send_signal(proc.pid, SIGSTOP)
        for proc in found:
            send_signal(proc.pid, SIGKILL)
        if not found:
            return
