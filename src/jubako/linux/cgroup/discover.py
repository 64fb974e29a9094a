"""Finding the mounted hierarchies and our own place in each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jubako.linux.cgroup._files import read

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Mount", "disks", "mounts", "own_paths"]

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_MOST_DISKS: Final = 64


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted hierarchy: ``own`` is our group's directory, inside ``point``."""

    version: int
    point: str
    own: str
    controllers: frozenset[str]


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def own_paths(proc: str) -> dict[str, str]:
    """Return our group's path by controller, as in /proc/self/cgroup; v2's is under ""."""
    paths: dict[str, str] = {}
    for line in read(f"{proc}/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def mounts(proc: str, parent: str | None) -> list[Mount]:
    """Return every usable hierarchy, once; ``parent`` replaces our own group's path where it is given."""
    paths = own_paths(proc)
    found: list[Mount] = []
    for line in read(f"{proc}/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind not in {"cgroup", "cgroup2"}:
            continue
        fields = left.split()
        root, point = _unescape(fields[3]), _unescape(fields[4])
        names = frozenset(options.split(",")) & paths.keys() if kind == "cgroup" else frozenset({""})
        if not names or any(names & mount.controllers for mount in found):
            continue  # a named hierarchy without controllers, or a second mount of one that we have
        own = _inside(point, root, paths.get(min(names), "/"), parent)
        if own is not None:
            found.append(Mount(1 if kind == "cgroup" else 2, point, own, names))
    return found


def _inside(point: str, root: str, path: str, parent: str | None) -> str | None:
    """Return the directory of ``path`` below a mount that shows the hierarchy from ``root`` on."""
    if parent is not None:
        directory = os.path.normpath(f"{point}/{parent.strip('/')}")
        return directory if directory == point or directory.startswith(f"{point}/") else None
    if root != "/" and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    directory = os.path.normpath(f"{point}/{path.strip('/')}") if ".." not in path.split("/") else point
    return directory if os.access(directory, os.F_OK) else point


def disks(sys_block: str, skip: Iterable[str] = ("loop", "ram", "zram", "sr", "fd")) -> tuple[str, ...]:
    """Return "major:minor" of every whole disk, for bandwidth limits."""
    prefixes = tuple(skip)
    try:
        with os.scandir(sys_block) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(prefixes))
    except OSError:
        return ()
    numbers: list[str] = []
    for name in names[:_MOST_DISKS]:
        try:
            if read(f"{sys_block}/{name}/size").strip() != "0":  # nothing in the drive, nothing connected
                numbers.append(read(f"{sys_block}/{name}/dev").strip())
        except OSError:
            continue  # unplugged between listing and reading
    return tuple(numbers)
