"""One sandbox's group across all hierarchies: members, counters, usage, freeze, kill, destroy."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from jubako.errors import BoundaryError, LaunchError
from jubako.linux.cgroup._files import Tree, read, read_number, read_table, wait_event, wait_until, write
from jubako.linux.cgroup.model import COUNTED, CgroupUsage, LimitResult, Place

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Cgroup"]

_PATIENCE: Final = 5.0
_ROUND: Final = 0.5
_NANOSECONDS: Final = 1e9
_MICROSECONDS: Final = 1e6


class Cgroup:
    """A group of processes that is limited, counted, frozen and killed as a whole.

    Synchronous and bounded in time; async callers use a worker thread. ``results`` says of each
    limit what the kernel reads back.
    """

    def __init__(
        self, name: str, places: Mapping[str, Place], results: tuple[LimitResult, ...] = (), tree: Tree | None = None
    ) -> None:
        self.name = name
        self.results = results
        self._places = dict(places)
        self._tree = tree or Tree()
        self._directories = {place.path: place.version for place in places.values()}

    @property
    def directories(self) -> tuple[str, ...]:
        """The group's directory in each hierarchy."""
        return tuple(self._directories)

    def launcher(self) -> tuple[str, ...]:
        """Return arguments to put before a program so that it starts inside; on failure it exits with 125.

        A single-threaded process that joins a v1 group by itself costs microseconds, ``attach`` from
        outside some 10 ms (a grace period of the whole kernel), so this is the way to start programs.
        """
        files = [f"{path}/{'tasks' if version == 1 else 'cgroup.procs'}" for path, version in self._directories.items()]
        joins = " && ".join(f'echo 0 >"${number}"' for number in range(1, len(files) + 1))
        script = f'{joins} || exit 125; shift {len(files)}; exec "$@"'
        return ("/bin/sh", "-c", script, "jubako", *files)

    def attach(self, pid: int) -> None:
        """Move one process with all its threads in; children that it makes afterwards follow.

        Blocks for some 10 ms, where ``launcher`` costs 1 ms: call it from a worker thread.
        Pre: the process does not fork meanwhile, or a child may stay outside of some hierarchy.

        Raises:
            LaunchError: The process is gone or may not be moved.
        """
        try:
            for path in self._directories:
                write(f"{path}/cgroup.procs", str(pid))
        except OSError as error:
            msg = f"process {pid} can't be moved into its group: {error.strerror}"
            raise LaunchError(msg, details={"group": self.name, "errno": error.errno}) from error

    def pids(self) -> frozenset[int]:
        """Return the processes inside, as this process numbers them."""
        found: set[int] = set()
        for path in self._directories:
            try:
                found.update(int(line) for line in read(f"{path}/cgroup.procs").split())
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ENODEV}:
                    raise
        return frozenset(found - {0})

    def counters(self) -> dict[str, int]:
        """Return how often each limit was hit, by control id; limits that nobody counts are absent."""
        counts: dict[str, int] = {}
        for controller, control in COUNTED.items():
            place = self._places.get(controller)
            if place is None:
                continue
            if controller == "pids":
                name, key = "pids.events", "max"
            else:
                name, key = ("memory.oom_control" if place.version == 1 else "memory.events"), "oom_kill"
            count = read_table(f"{place.path}/{name}").get(key)
            if count is not None:
                counts[control] = count
        return counts

    def usage(self) -> CgroupUsage:
        """Return what was used so far."""
        memory, pids = self._places.get("memory"), self._places.get("pids")
        names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes")
        if memory is not None and memory.version == 2:
            names = ("memory.current", "memory.peak")
        return CgroupUsage(
            cpu_seconds=self._cpu_seconds(),
            memory=read_number(f"{memory.path}/{names[0]}") if memory else None,
            memory_peak=read_number(f"{memory.path}/{names[1]}") if memory else None,
            processes=read_number(f"{pids.path}/pids.current") if pids else len(self.pids()),
        )

    def _cpu_seconds(self) -> float | None:
        if place := self._places.get(""):
            used = read_table(f"{place.path}/cpu.stat").get("usage_usec")
            return None if used is None else used / _MICROSECONDS
        if place := self._places.get("cpuacct"):
            used = read_number(f"{place.path}/cpuacct.usage")
            return None if used is None else used / _NANOSECONDS
        return None

    def freeze(self, timeout: float = _PATIENCE) -> None:
        """Stop everything inside; returns when nothing runs any more.

        Raises:
            BoundaryError: No freezer here, or not all were stopped in time; they are then thawed again.
        """  # control: process.freeze
        if not self._set_frozen(frozen=True, timeout=timeout):
            self._set_frozen(frozen=False, timeout=_ROUND)
            msg = f"group {self.name} was not frozen within {timeout:g} s"
            raise BoundaryError(msg, details={"group": self.name})

    def thaw(self, timeout: float = _PATIENCE) -> None:
        """Let everything inside go on; idempotent.

        Raises:
            BoundaryError: No freezer here, or the group did not thaw in time.
        """
        if not self._set_frozen(frozen=False, timeout=timeout):
            msg = f"group {self.name} did not thaw within {timeout:g} s"
            raise BoundaryError(msg, details={"group": self.name})

    def _set_frozen(self, *, frozen: bool, timeout: float) -> bool:
        if place := self._places.get(""):
            write(f"{place.path}/cgroup.freeze", "1" if frozen else "0")
            return wait_event(f"{place.path}/cgroup.events", "frozen", int(frozen), timeout)
        if place := self._places.get("freezer"):
            state, path = ("FROZEN" if frozen else "THAWED"), f"{place.path}/freezer.state"

            def reached() -> bool:
                write(path, state)  # a child forked in the wrong moment needs another push
                return read(path).strip() == state

            return wait_until(reached, timeout)
        raise BoundaryError("no cgroup freezer on this machine", details={"group": self.name})

    def kill(self, timeout: float = _PATIENCE) -> None:
        """End everything inside, also when frozen; returns when nobody is left. Idempotent.

        Raises:
            BoundaryError: Something is still there after ``timeout`` seconds.
        """  # control: process.kill-tree
        end = time.monotonic() + timeout
        while True:
            if self._kill_once(min(_ROUND, max(end - time.monotonic(), 0.0))):
                return
            if time.monotonic() >= end:
                msg = f"processes of group {self.name} survived for {timeout:g} s"
                raise BoundaryError(msg, details={"group": self.name, "pids": sorted(self.pids())})

    def _kill_once(self, timeout: float) -> bool:
        place = self._places.get("")
        if place is not None:
            try:
                write(f"{place.path}/cgroup.kill", "1")
            except FileNotFoundError:
                pass  # Linux before 5.14, or removed
            else:
                wait_event(f"{place.path}/cgroup.events", "populated", 0, timeout)
        if not self.pids():
            return True
        self._kill_members()
        return wait_until(lambda: not self.pids(), timeout)

    def _kill_members(self) -> None:
        """Kill whoever is listed; frozen, so that nobody forks away from the list."""
        try:
            self._set_frozen(frozen=True, timeout=_ROUND)
        except (BoundaryError, OSError):
            self._stop_forks()
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            self._set_frozen(frozen=False, timeout=_ROUND)  # v1 delivers the signal only after this
        except (BoundaryError, OSError):
            return

    def _stop_forks(self) -> None:
        if place := self._places.get("pids"):
            # Absent when the group was half made or half removed as its maker was killed.
            with suppress(FileNotFoundError):
                write(f"{place.path}/pids.max", "0")

    def destroy(self, timeout: float = _PATIENCE) -> None:
        """End everything inside and remove the group; idempotent.

        Raises:
            BoundaryError: Something could not be ended or removed in time.
        """
        left = self._remove()
        if not left:
            return
        end = time.monotonic() + timeout
        self.kill(timeout)

        def gone() -> bool:
            nonlocal left
            left = self._remove()
            return not left

        if not wait_until(gone, max(end - time.monotonic(), _ROUND)):
            msg = f"group {self.name} can't be removed"
            raise BoundaryError(msg, details={"group": self.name, "directories": left})

    def _remove(self) -> list[str]:
        left: list[str] = []
        for path in self._directories:
            try:
                self._tree.remove(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in {errno.EBUSY, errno.ENOTEMPTY, errno.EINTR}:
                    raise
                self._remove_below(path)
                left.append(path)
        return left

    def _remove_below(self, path: str) -> None:
        """Remove groups that something made below ours, if ever it could."""
        try:
            with os.scandir(path) as entries:
                names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return
        for name in names:
            self._remove_below(name)
            try:
                self._tree.remove(name)
            except OSError:
                continue  # still busy; the caller comes back
