"""What the sandbox has used, as seen from inside."""

from __future__ import annotations

import posix

from . import tree, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .core import Stream


def report(stream: Stream) -> None:
    """Serve USAGE: CPU microseconds, resident bytes, processes, bytes in the workspace."""
    import resource

    procs = tree.scan()
    if posix.getpid() != 1:
        procs = {pid: procs[pid] for pid in tree.below([posix.getpid()], procs) if pid in procs}
    tick = posix.sysconf("SC_CLK_TCK")
    page = posix.sysconf("SC_PAGE_SIZE")
    cpu = sum(proc.ticks for proc in procs.values()) / tick
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        cpu += used.ru_utime + used.ru_stime
    memory = sum(proc.rss for proc in procs.values()) * page + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    space = posix.statvfs(stream.agent.workspace)
    disk = (space.f_blocks - space.f_bfree) * space.f_frsize
    stream.send(wire.USED, int(cpu * 1000000), memory, len(procs) + 1, disk)
