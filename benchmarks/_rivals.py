"""The others: plain Python, hand-written bubblewrap, and other sandboxes where they are installed."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jubako.jail.bubblewrap.layout import etc_shared, proc_masks, toolchain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PATH", "Rivals", "find_rivals", "run_checked"]

PATH: Final = "/usr/local/bin:/usr/bin:/bin"
"""Where programs are looked up inside a sandbox, and so for its rivals."""

_TIMEOUT: Final = 120
_USER: Final = 1_879_999_999


def run_checked(argv: Sequence[str], expected: bytes, env: dict[str, str] | None = None) -> None:
    """Run a program to its end. Raises RuntimeError unless it printed exactly what is expected."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False, env=env or {"PATH": PATH}
    )
    if done.returncode != 0 or done.stdout != expected:
        said = done.stderr.decode(errors="replace").strip()[:200]
        msg = f"{Path(argv[0]).name}: status {done.returncode}, printed {done.stdout[:40]!r} {said}"
        raise RuntimeError(msg)


@dataclass(frozen=True, slots=True)
class Rivals:
    """Command prefixes by name; what is not installed is None."""

    python: str
    bwrap: tuple[str, ...] | None
    plain: tuple[str, ...] | None
    as_user: tuple[str, ...] | None
    kern: Callable[[Sequence[str]], list[str]] | None
    srt: str | None

    def raw(self, argv: Sequence[str]) -> list[str]:
        """Return the raw bubblewrap command for ``argv``, with our own user. Raises RuntimeError without bubblewrap."""
        if self.bwrap is None:
            raise RuntimeError("bubblewrap is not installed")
        return [*self.bwrap, *argv]

    def raw_plain(self, argv: Sequence[str]) -> list[str]:
        """Return the same with a /proc that hides nothing. Raises RuntimeError without bubblewrap."""
        if self.plain is None:
            raise RuntimeError("bubblewrap is not installed")
        return [*self.plain, *argv]

    def raw_as_user(self, argv: Sequence[str]) -> list[str]:
        """Return the same, started by ``setpriv`` as an unprivileged user, as jubako does when it is root."""
        return [*(self.as_user or ()), *self.raw(argv)]

    def srt_command(self, argv: Sequence[str]) -> list[str]:
        """Return the command for npm's sandbox-runtime, which takes a shell line."""
        if self.srt is None:
            raise RuntimeError("srt is not installed")
        return [self.srt, "-c", shlex.join(argv)]


def find_rivals(scratch: Path) -> Rivals:
    """Return what is installed on this machine. ``scratch`` is an empty directory that outlives their use."""
    python = shutil.which("python3", path=PATH)
    if python is None:
        msg = f"no python3 in {PATH}"
        raise RuntimeError(msg)
    bwrap = shutil.which("bwrap")
    setpriv = shutil.which("setpriv") if os.geteuid() == 0 else None
    kern = shutil.which("kern")
    return Rivals(
        python=python,
        bwrap=_bwrap(bwrap) if bwrap else None,
        plain=_bwrap(bwrap, masks=False) if bwrap else None,
        as_user=(setpriv, f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups") if setpriv else None,
        kern=_kern(kern, scratch) if kern else None,
        srt=shutil.which("srt"),
    )


def _bwrap(program: str, *, masks: bool = True) -> tuple[str, ...]:
    """Return bubblewrap as one would write it by hand, showing the same tree as jubako's sandbox.

    All namespaces, no cgroup, no seccomp filter, no Landlock, no size limits, nobody watching.
    """
    argv = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--setenv", "PATH", PATH]
    argv += ["--ro-bind", "/usr", "/usr"]
    for name, target in toolchain():
        argv += ["--symlink", target, f"/{name}"] if target else ["--ro-bind", f"/{name}", f"/{name}"]
    for name in etc_shared():
        argv += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    argv += ["--proc", "/proc", "--dev", "/dev"]
    for name, is_directory in proc_masks() if masks else ():
        argv += ["--tmpfs", f"/proc/{name}"] if is_directory else ["--ro-bind", "/dev/null", f"/proc/{name}"]
    return (*argv, "--tmpfs", "/tmp", "--tmpfs", "/workspace", "--chdir", "/workspace", "--")


def _kern(program: str, scratch: Path) -> Callable[[Sequence[str]], list[str]]:
    """Return kern over a root that shows the host's /usr, read-only."""
    root = scratch / "kern-root"
    for name in ("usr", "etc", "proc", "dev", "tmp", "sys", "root", "run"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, target in toolchain():
        if target:
            (root / name).symlink_to(target)

    def command(argv: Sequence[str]) -> list[str]:
        box = f"bench-{secrets.token_hex(4)}"
        head = [program, "box", box, "--rootfs", str(root), "-v", "/usr:/usr:ro", "--rm", "--read-only", "--"]
        return [*head, *argv]

    return command
