"""The first process of a small virtual machine with pure cgroup v2: runs the group tests there, prints the outcome."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MIB = 1 << 20


def mount(kind: str, target: str) -> None:
    Path(target).mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), target.encode(), kind.encode(), 0, None):
        raise OSError(ctypes.get_errno(), f"mount {kind}")


def modules() -> None:
    """Load the disk driver; the names come in order of need."""
    libc = ctypes.CDLL(None, use_errno=True)
    for path in Path("/modules").read_text(encoding="utf-8").split():
        with Path(path).open("rb") as file:
            libc.syscall(ctypes.c_long(313), ctypes.c_int(file.fileno()), b"", ctypes.c_int(0))  # finit_module


def suite() -> dict[str, object]:
    """Run the same tests that run on the host, as root at the top of the tree."""
    options = "-v -rfEs --tb=short --no-header --color=no -p no:cacheprovider -o faulthandler_timeout=30 -c /dev/null"
    command = [sys.executable, "-m", "pytest", *options.split(), "--rootdir=/tests", "/tests/test_linux_cgroup.py"]
    return {"status": subprocess.run(command, check=False).returncode}


def abilities() -> dict[str, object]:
    from jubako.linux.cgroup import CgroupManager, Limits, probe_cgroups

    support = probe_cgroups()
    manager = CgroupManager(support)
    group = manager.create("vm-limits", Limits(100 * MIB + 5, 0, 17, 0.25, 5 * MIB))
    seen = {str(result.ability): result.seen for result in group.results if result.verified}
    group.destroy()
    manager.close()
    return {
        "how": {str(ability): str(mechanism) for ability, mechanism in support.how.items()},
        "why": {str(ability): reason.text for ability, reason in support.reasons.items()},
        "seen": seen,
        "left": [str(path) for path in ROOT.rglob("jubako*")],
    }


def _in_child(identity: int, join: Path, script: str) -> dict[str, object]:
    """Run ``script`` as another user in a group of its own; it prints one JSON object."""

    def enter() -> None:
        (join / "cgroup.procs").write_text("0", encoding="ascii")
        os.setgroups([])
        os.setgid(identity)
        os.setuid(identity)

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, preexec_fn=enter)
    try:
        result: dict[str, object] = json.loads(done.stdout)
    except ValueError:
        return {"error": done.stdout + done.stderr}
    return result


SCRIPT = """
import json, subprocess, time
from jubako.linux.cgroup import CgroupManager, Limits, probe_cgroups
support = probe_cgroups(parent={parent!r})
manager = CgroupManager(support)
group = manager.create("user-box", Limits(64 << 20, 0, 16, 0.5))
child = subprocess.Popen([*group.launcher(), "/bin/sleep", "60"], stdout=subprocess.PIPE)
while child.pid not in group.pids() and child.poll() is None: time.sleep(0.01)
group.freeze()
group.destroy()
manager.close()
print(json.dumps({{"base": support.hierarchies[0].base, "status": child.wait(), "how": sorted(support.how),
  "verified": sorted(result.ability for result in group.results if result.verified)}}))
"""


def delegated() -> dict[str, object]:
    """An ordinary user with a delegated subtree, whose processes live in a group inside it."""
    (ROOT / "cgroup.subtree_control").write_text("+cpu +memory +pids", encoding="ascii")
    tree = ROOT / "delegated"
    inner = tree / "session"
    inner.mkdir(parents=True)
    for path in (tree, inner):
        for target in (path, *(path / f"cgroup.{name}" for name in ("procs", "subtree_control", "threads"))):
            os.chown(target, 1000, 1000)
    result = _in_child(1000, inner, SCRIPT.format(parent=None))
    inner.rmdir()
    tree.rmdir()
    return result


def aside() -> dict[str, object]:
    """A process alone in a group that was given to it must move before it can hand controllers down."""
    own = ROOT / "job"
    own.mkdir()
    result = _in_child(0, own, SCRIPT.format(parent="/job"))
    result["left"] = sorted(path.name for path in own.iterdir() if path.is_dir())
    for path in own.iterdir():
        if path.is_dir():
            path.rmdir()
    own.rmdir()
    return result


def undelegated() -> dict[str, object]:
    """An ordinary user without any group of his own is told why."""
    own = ROOT / "plain"
    own.mkdir()
    script = (
        "import json; from jubako.linux.cgroup import probe_cgroups; found = probe_cgroups(environ={'PATH': '/bin'})\n"
        "print(json.dumps({'how': len(found.how), 'codes': sorted({r.code for r in found.reasons.values()})}))"
    )
    result = _in_child(1000, own, script)
    own.rmdir()
    return result


def main() -> None:
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    for kind, target in (
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("cgroup2", str(ROOT)),
    ):
        mount(kind, target)
    modules()
    for stage in (abilities, delegated, aside, undelegated, suite):
        try:
            outcome = stage()
        except Exception:  # noqa: BLE001  # reported to the host, which decides
            outcome = {"error": traceback.format_exc()}
        sys.stdout.write(f"\n@@{json.dumps({stage.__name__: outcome})}@@\n")
        sys.stdout.flush()
    Path("/proc/sysrq-trigger").write_text("o", encoding="ascii")


if os.getpid() == 1:
    main()
    time.sleep(60)  # the machine goes off meanwhile
