"""A plain bubblewrap sandbox that lacks chosen walls: where a probe proves that it would succeed.

It has no syscall filter, no Landlock and no limits, it is built by an ordinary user, and nothing of
the host can be written from it but throw-away directories.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jubako.probes.model import Wall

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Reference", "find_bwrap", "find_python"]

_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_TOP: Final = ("bin", "lib", "lib32", "lib64", "sbin")


def find_bwrap() -> str | None:
    """Return bubblewrap's path: the system's, or the one that the ``bwrap`` extra brings."""
    bundled = os.path.join(sysconfig.get_path("scripts"), "bwrap")  # noqa: PTH118  # goes into an argument vector
    return shutil.which("bwrap") or (bundled if os.access(bundled, os.X_OK) else None)


def find_python() -> str:
    """Return an interpreter that other users can run too."""
    return shutil.which("python3", path=_PATH) or "/usr/bin/python3"


@dataclass(frozen=True, slots=True)
class Reference:
    """Builds argument vectors. ``room`` holds the throw-away directories ``ro-root``, ``workspace``, ``tmp``."""

    bwrap: str
    room: Path
    granted: Path

    def argv(self, command: Sequence[str], *, without: frozenset[Wall], first: bool = False) -> list[str]:
        """Return the command inside a sandbox that lacks the walls ``without``."""
        argv = [self.bwrap, "--unshare-user", "--unshare-pid", "--unshare-cgroup-try", "--die-with-parent"]
        argv += [] if Wall.NETWORK in without else ["--unshare-net"]
        argv += [] if Wall.IPC in without else ["--unshare-ipc"]
        argv += ["--unshare-uts", "--hostname", "reference", "--new-session", "--clearenv"]
        argv += ["--setenv", "PATH", _PATH, "--setenv", "HOME", "/workspace"]
        argv += ["--uid", "0", "--gid", "0", "--cap-add", "ALL"] if Wall.CAPABILITIES in without else []
        argv += ["--as-pid-1"] if first else []
        argv += self._files(without)
        return [*argv, "--chdir", "/workspace", "--", *command]

    def _files(self, without: frozenset[Wall]) -> list[str]:
        argv = ["--ro-bind", "/usr", "/usr"]
        for name in _TOP:
            path = f"/{name}"
            if os.path.islink(path):  # noqa: PTH114  # plain strings: these go into an argument vector
                argv += ["--symlink", os.readlink(path), path]  # noqa: PTH115
            elif os.path.isdir(path):  # noqa: PTH112
                argv += ["--ro-bind", path, path]
        etc = str(self.room / "etc")
        if Wall.ROOT in without:
            argv += ["--bind", etc, "/etc", "--bind", etc, "/usr/local", "--bind", etc, "/opt"]
        else:
            argv += ["--ro-bind", etc, "/etc"]
        argv += ["--proc", "/proc"]
        argv += ["--dev-bind", "/dev", "/dev"] if Wall.DEVICES in without else ["--dev", "/dev"]
        argv += ["--ro-bind", "/sys", "/sys"] if Wall.SYS in without else []
        argv += ["--ro-bind", "/dev/shm", "/dev/shm"] if Wall.SHM in without else []  # noqa: S108  # a path inside
        for path, wall in (("/workspace", Wall.WORKSPACE), ("/tmp", Wall.TMP)):  # noqa: S108  # paths inside
            argv += ["--bind", str(self.room / path[1:]), path] if wall in without else ["--tmpfs", path]
        argv += ["--bind" if Wall.MOUNTS in without else "--ro-bind", str(self.granted), "/mnt/granted"]
        if Wall.HIDE not in without:
            argv += ["--tmpfs", "/mnt/granted/hidden"]
        return argv
