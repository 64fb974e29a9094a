"""Walls read from outside: all up, each one down, and what an ordinary user may not read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from jubako.linux.procinfo import children
from jubako.linux.seccomp import DEFAULT, compile_filter
from jubako.linux.verify import NAMESPACES, Expected, verify_walls

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

USER = 65534
ROOT = os.geteuid() == 0
DROP = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"] if ROOT else []
WALLS = [
    "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup",
    "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL", "--as-pid-1", "--die-with-parent",
    "--ro-bind", "/", "/", "--proc", "/proc",
]  # fmt: skip


@contextlib.contextmanager
def sandbox(*, without: str | None = None, seccomp: bool = True, drop: bool = True, run: str = "") -> Iterator[int]:
    """Run a sandbox and yield its first process's pid on the host."""
    handle = os.memfd_create("filter", 0)
    os.write(handle, compile_filter(DEFAULT))
    os.lseek(handle, 0, os.SEEK_SET)
    walls = [item for item in WALLS if item != without]
    if "--unshare-user" not in walls:
        walls = [item for item in walls if item not in {"--uid", "--gid", "1000"}]
    command = [*(DROP if drop else []), "bwrap", *walls, *(["--seccomp", str(handle)] if seccomp else [])]
    command += ["sh", "-c", f"ulimit -n 256; echo ready; {run or 'sleep 60'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[handle]) as child:
        os.close(handle)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            (first,) = children(child.pid)
            yield first
        finally:
            for pid in children(child.pid):
                os.kill(pid, 9)
            child.kill()


def test_all_walls_up() -> None:
    with sandbox() as pid:
        report = verify_walls(pid, Expected(uid=USER if ROOT else os.getuid(), limits={"nofile": 256}))
        assert (report.mismatches, report.unverifiable, report.sound) == ((), (), True)
        assert verify_walls(pid).sound


@pytest.mark.parametrize(
    ("wall", "subject", "control"),
    [
        ("--unshare-net", "ns/net", "net.default-deny"),
        ("--unshare-ipc", "ns/ipc", "process.ipc"),
        ("--unshare-uts", "ns/uts", "process.identity"),
        ("--unshare-cgroup", "ns/cgroup", "process.isolation"),
    ],
)
def test_missing_namespace_is_found(wall: str, subject: str, control: str) -> None:
    with sandbox(without=wall) as pid:
        (finding,) = verify_walls(pid).mismatches
    assert (finding.subject, finding.control, finding.seen) == (subject, control, "the host's")


def test_missing_filter_is_found() -> None:
    with sandbox(seccomp=False) as pid:
        (finding,) = verify_walls(pid).mismatches
        assert verify_walls(pid, Expected(seccomp=False)).sound
    assert (finding.control, finding.subject, finding.seen) == ("syscall.allowlist", "Seccomp", "0")


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_root_is_found() -> None:
    with sandbox(drop=False) as pid:
        findings = {(item.control, item.subject) for item in verify_walls(pid).mismatches}
    assert findings == {("process.identity", "Uid"), ("process.identity", "Gid")}


def test_wrong_user_and_loose_limit_are_found() -> None:
    with sandbox() as pid:
        findings = verify_walls(pid, Expected(uid=4242, limits={"nofile": 255, "nproc": 1})).mismatches
    assert [(item.subject, item.expected) for item in findings] == [
        ("Uid", "4242"),
        ("rlimit nofile", "at most 255"),
        ("rlimit nproc", "at most 1"),
    ]
    assert findings[1].seen == "256"


def test_an_open_process_fails_everything() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        report = verify_walls(child.pid)
        child.kill()
    subjects = {item.subject for item in report.mismatches}
    assert {"NoNewPrivs", "Seccomp", *(f"ns/{kind}" for kind in NAMESPACES)} <= subjects
    assert ("CapBnd" in subjects) == ROOT or not ROOT
    assert not report.sound


def test_gone_process_is_a_mismatch() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    (finding,) = verify_walls(child.pid).mismatches
    assert finding.seen == "gone or hidden"


def _as_user(pid: int) -> list[list[list[str]]]:
    script = (
        "import json, sys; from jubako.linux.verify import verify_walls; r = verify_walls(int(sys.argv[1]))\n"
        "print(json.dumps([[[f.subject, f.seen] for f in part] for part in (r.mismatches, r.unverifiable)]))"
    )
    done = subprocess.run(
        [*DROP, sys.executable, "-c", script, str(pid)],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}, cwd="/",
    )  # fmt: skip
    parts: list[list[list[str]]] = json.loads(done.stdout)
    return parts


def test_ordinary_user_sees_own_sandbox() -> None:
    with sandbox() as pid:
        assert _as_user(pid) == [[], []]


@pytest.mark.skipif(not ROOT, reason="needs two users")
def test_what_may_not_be_read_is_unverifiable_not_wrong() -> None:
    """Another user's process stands for one that is not dumpable: the kernel hides both."""
    with subprocess.Popen(["sleep", "60"]) as child:
        mismatches, unverifiable = _as_user(child.pid)
        child.kill()
    assert ["ns/net", "unreadable"] in unverifiable
    assert ["ns/pid", "unreadable"] in unverifiable  # not in a deeper pid namespace either
    assert "ns/net" not in [subject for subject, _ in mismatches]
    assert ["NoNewPrivs", "0"] in mismatches


def test_process_that_is_not_dumpable() -> None:
    script = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0); time.sleep(60)"
    with sandbox(run=f'exec /usr/bin/python3 -c "{script}"') as pid:
        end = time.monotonic() + 10
        while time.monotonic() < end and os.stat(f"/proc/{pid}/environ").st_uid != 0:  # noqa: PTH116  # short
            time.sleep(0.01)
        assert verify_walls(pid).sound
        mismatches, unverifiable = _as_user(pid)
    assert mismatches == []
    assert {seen for _, seen in unverifiable} <= {"unreadable"}
