"""Making groups: one directory per hierarchy below a parent named ``jubako``, limits written and read back."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from jubako.errors import LaunchError
from jubako.linux.cgroup._files import Tree, read, write
from jubako.linux.cgroup.group import Cgroup
from jubako.linux.cgroup.limits import CONTROLLER, apply
from jubako.linux.cgroup.model import Ability, CgroupSupport, Hierarchy, LimitResult, Limits, Mechanism, Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "PARENT",
    "CgroupManager",
    "enable_controllers",
    "list_groups",
    "make_parents",
    "make_places",
    "only",
]

PARENT: Final = "jubako"
"""Name of the directory that holds all our groups, in every hierarchy."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ATTEMPTS: Final = 5


class CgroupManager:
    """Makes groups as ``support`` (from ``probe_cgroups``) says this machine can."""

    def __init__(self, support: CgroupSupport, tree: Tree | None = None) -> None:
        self._support = support
        self._tree = tree or Tree()

    @property
    def support(self) -> CgroupSupport:
        """What this machine can do."""
        return self._support

    def create(self, name: str, limits: Limits) -> Cgroup:
        """Make a group and hold every limit that ``support`` can hold, all or nothing.

        ``results`` of the group lists each limit; those without a mechanism here have none there.

        Raises:
            LaunchError: A limit was refused or reads back differently, or the name is taken; nothing is left.
        """
        hierarchies = self._needed(limits)
        if not hierarchies:
            raise LaunchError("no cgroup hierarchy is usable here", details={"group": name})
        for attempt in range(_ATTEMPTS):
            try:
                return self._create(name, limits, hierarchies)
            except FileNotFoundError as error:
                # First use, or another jubako removed the empty parent between our two steps.
                if attempt == _ATTEMPTS - 1:
                    msg = f"group {name} can't be made: {error.filename or ''} {error.strerror}"
                    raise LaunchError(msg, details={"group": name}) from error
                make_parents(hierarchies, self._tree)
        raise AssertionError

    def _create(self, name: str, limits: Limits, hierarchies: Iterable[Hierarchy]) -> Cgroup:
        places = make_places(name, hierarchies, self._tree)
        group = Cgroup(name, places, tree=self._tree)
        try:
            results = self._limit(places, limits)
        except BaseException:
            group.destroy()
            raise
        wrong = [item for item in results if item.mechanism is not None and item.error]
        if wrong:
            group.destroy()
            text = "; ".join(f"{item.ability}: {item.error}" for item in wrong)
            msg = f"limits were not taken: {text}"
            raise LaunchError(msg, details={"group": name})
        group.results = results
        return group

    def _limit(self, places: dict[str, Place], limits: Limits) -> tuple[LimitResult, ...]:
        usable = only(limits, {ability for ability in Ability if self._own(ability)})
        results = apply(places, usable, self._support.disks)
        missing = limits.wanted().keys() - usable.wanted().keys()
        return results + tuple(
            LimitResult(ability, str(limits.wanted()[ability]), "", None, self._why_not(ability))
            for ability in sorted(missing)
        )

    def _own(self, ability: Ability) -> bool:
        return self._support.how.get(ability) in {Mechanism.V1, Mechanism.V2}

    def _why_not(self, ability: Ability) -> str:
        reason = self._support.reasons.get(ability)
        return reason.text if reason else "not available here"

    def _needed(self, limits: Limits) -> tuple[Hierarchy, ...]:
        """Return the hierarchies worth a directory: those with a wanted limit, freezer and CPU meter."""
        wanted = {CONTROLLER[ability][0] for ability in limits.wanted() if self._own(ability)}
        wanted |= {"cpuacct", "freezer", "pids"}
        return tuple(item for item in self._support.hierarchies if item.version == 2 or item.controllers & wanted)

    def open(self, name: str) -> Cgroup:
        """Return a group that exists already, perhaps not in all hierarchies, to watch or destroy it."""
        places = _places(_checked(name), self._support.hierarchies)
        for controller, place in places.items():
            if not os.access(place.path, os.F_OK):
                # Its owner may have run in another group than we do.
                where = next(item for item in self._support.hierarchies if controller in item.controllers)
                for parent in _parents(where.point):
                    if os.access(f"{parent}/{name}", os.F_OK):
                        places[controller] = Place(place.version, f"{parent}/{name}")
        return Cgroup(name, places, tree=self._tree)

    def reap(self, name: str) -> None:
        """End and remove a group that a dead owner left, with its parents where they are empty then; idempotent."""
        group = self.open(name)
        group.destroy()
        for path in group.directories:
            with suppress(OSError):  # in use by others, or gone
                self._tree.remove(path.rpartition("/")[0])

    def names(self) -> frozenset[str]:
        """Return the names of all groups on this machine below a parent of ours, whoever made them.

        Parents without groups are removed on the way, as ``close`` would have done for their dead owners.
        """
        for point in sorted({item.point for item in self._support.hierarchies}):
            for parent in _parents(point):
                with suppress(OSError):  # in use
                    self._tree.remove(parent)
        return list_groups(self._support)

    def close(self) -> None:
        """Remove the parents where nobody uses them; idempotent."""
        for item in self._support.hierarchies:
            with suppress(OSError):  # in use by others, or gone
                self._tree.remove(f"{item.base}/{PARENT}")


def only(limits: Limits, abilities: Iterable[Ability]) -> Limits:
    """Return ``limits`` without those that are not among ``abilities``."""
    kept = frozenset(abilities)
    return Limits(
        memory=limits.memory if Ability.MEMORY in kept else None,
        swap=limits.swap if Ability.SWAP in kept else None,
        processes=limits.processes if Ability.PROCESSES in kept else None,
        cpus=limits.cpus if Ability.CPU in kept else None,
        io_bytes_per_second=limits.io_bytes_per_second if Ability.IO in kept else None,
    )


def list_groups(support: CgroupSupport) -> frozenset[str]:
    """Return the names of all groups below a parent of ours, anywhere in the hierarchies that we use.

    An owner works below its own group, which may be another one than ours (a login session, a
    service), so the whole trees are searched; some milliseconds on a machine with hundreds of groups.
    """
    return frozenset(
        path.rpartition("/")[2]
        for point in sorted({item.point for item in support.hierarchies})
        for parent in _parents(point)
        for path in _below(parent)
    )


def _parents(point: str) -> Iterator[str]:
    """Yield every directory of ours in one hierarchy."""
    todo = [point]
    while todo:
        for path in _below(todo.pop()):
            if path.endswith(f"/{PARENT}"):
                yield path
            else:
                todo.append(path)


def _below(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # removed meanwhile, or not ours to read


def make_places(name: str, hierarchies: Iterable[Hierarchy], tree: Tree) -> dict[str, Place]:
    """Make the group's directory in each hierarchy, all or none.

    Raises:
        FileNotFoundError: A parent is missing.
        LaunchError: The name is taken, or a directory can't be made.
    """
    made: list[str] = []
    places = _places(_checked(name), hierarchies)
    try:
        for path in dict.fromkeys(place.path for place in places.values()):
            tree.make(path)
            made.append(path)
    except OSError as error:
        for path in made:
            with suppress(OSError):
                tree.remove(path)
        if isinstance(error, FileNotFoundError):
            raise
        msg = f"group {name} can't be made: {error.strerror}"
        raise LaunchError(msg, details={"group": name, "errno": error.errno}) from error
    return places


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name.startswith("cgroup."):
        msg = f"{name!r} is not a group name"
        raise ValueError(msg)
    return name


def _places(name: str, hierarchies: Iterable[Hierarchy]) -> dict[str, Place]:
    return {
        controller: Place(item.version, f"{item.base}/{PARENT}/{name}")
        for item in hierarchies
        for controller in item.controllers
    }


def make_parents(hierarchies: Iterable[Hierarchy], tree: Tree) -> None:
    """Make our parent directory in each hierarchy and hand v2 controllers down to it. Raises LaunchError."""
    for item in hierarchies:
        parent = f"{item.base}/{PARENT}"
        try:
            tree.make(parent)
        except FileExistsError:
            pass
        except OSError as error:
            msg = f"{parent} can't be made: {error.strerror}"
            raise LaunchError(msg, details={"errno": error.errno}) from error
        if item.version == 2:
            wanted = item.controllers - {""}
            enable_controllers(item.base, wanted, tree)
            with suppress(FileNotFoundError):  # removed under our hands; the caller tries again
                enable_controllers(parent, wanted, tree)


def enable_controllers(directory: str, wanted: Iterable[str], tree: Tree, *, may_move: bool = True) -> frozenset[str]:
    """Hand ``wanted`` v2 controllers down to the children of ``directory``; return those that are.

    A group with processes of its own can't do that. Where the only one is ours (a delegated scope or
    service), it moves to a sibling of our parent first, if it may.
    """
    path = f"{directory}/cgroup.subtree_control"
    enabled = frozenset(read(path).split())
    missing = (frozenset(wanted) & frozenset(read(f"{directory}/cgroup.controllers").split())) - enabled
    # The kernel would accept some controllers (cpu, pids) beside processes, but then the group and all below
    # turn into a tree of threads, in which no process group of ours can live. Only the root has no type.
    if missing and os.access(f"{directory}/cgroup.type", os.F_OK):
        processes = read(f"{directory}/cgroup.procs").split()
        if processes and not (may_move and processes == [str(os.getpid())] and _step_aside(directory, tree)):
            return enabled
    for controller in sorted(missing):
        with suppress(OSError):  # not available after all: the caller sees it missing
            write(path, f"+{controller}")
    return frozenset(read(path).split())


def _step_aside(directory: str, tree: Tree) -> bool:
    target = f"{directory}/{PARENT}.self"
    try:
        with suppress(FileExistsError):
            tree.make(target)
        write(f"{target}/cgroup.procs", str(os.getpid()))
    except OSError:
        return False
    return True
