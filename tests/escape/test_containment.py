"""Every hostile program against the real driver, as root and as an ordinary user: nothing escapes.

What stays inconclusive is exactly what this machine or this user can't show, each with its reason.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from jubako.errors import PolicyNotEnforceableError
from jubako.probes import PROBES, ProbeRunReport, Verdict, load_results, run_probes
from jubako.probes.ground import ORDINARY
from jubako.probes.results import from_document, store_results
from jubako.runtime import AsyncSandbox

pytestmark = [pytest.mark.driver("bwrap"), pytest.mark.timeout(300)]

COMMAND = "from jubako.cli import main; raise SystemExit(main())"

ONLY_ROOT_CAN = {
    "fs.host-hidden/shadow": "only root can read it",
    "fs.host-hidden/file-handle": "handles need CAP_DAC_READ_SEARCH",
    "fs.devices/make-node": "only root makes device nodes",
    "fs.devices/kernel-log": "only root writes it",
    "syscall.allowlist/administration": "only root may",
    "syscall.allowlist/kernel-log": "kernel.dmesg_restrict",
    "syscall.capabilities/clock": "only root sets clocks",
    "syscall.capabilities/real-time": "only root may",
    "syscall.capabilities/fair-share": "only root may",
    "syscall.no-new-privileges/setuid": "only root prepares such programs",
    "syscall.no-new-privileges/file-capabilities": "only root prepares such programs",
    "process.identity/become-other": "only root may",
    "process.identity/kernel-root": "the caller isn't root to begin with",
}


def _reachable(paths: str, *, root: bool, write: bool = False) -> bool:
    """Whether one of the paths can be opened outside, by root or by an ordinary user."""
    for path in map(Path, paths.split()):
        try:
            if root:
                os.close(os.open(path, (os.O_WRONLY if write else os.O_RDONLY) | os.O_NONBLOCK))
                return True
            if path.stat().st_mode & (stat.S_IWOTH if write else stat.S_IROTH):
                return True
        except OSError:
            continue
    return False


def _has_socket(family: int, kind: int) -> bool:
    try:
        socket.socket(family, kind).close()
    except OSError:
        return False
    return True


def _setting(path: str, default: str) -> str:
    try:
        return Path("/proc/sys", path).read_text().strip()
    except OSError:
        return default


def _expected(report: ProbeRunReport, *, root: bool) -> tuple[set[str], set[str]]:
    """Return the ids that can't be proven on this machine by this user, and those that may not be."""
    absent = {
        "fs.proc/kcore": not _reachable("/proc/kcore", root=root),
        "fs.proc/sysrq": not _reachable("/proc/sysrq-trigger", root=root, write=True),
        "fs.devices/hardware": not _reachable(
            "/dev/mem /dev/kmem /dev/port /dev/nvram /dev/hwrng /dev/vga_arbiter", root=root
        ),
        "fs.devices/disk": not _reachable(
            "/dev/vda /dev/sda /dev/nvme0n1 /dev/xvda /dev/dm-0 /dev/loop0 /dev/mapper/control", root=root
        ),
        "fs.devices/hypervisor": not _reachable("/dev/kvm /dev/vhost-net /dev/vsock", root=root),
        "fs.devices/fuse": not _reachable("/dev/fuse /dev/net/tun", root=root),
        "net.sockets/kernel-crypto": not _has_socket(38, 5),
        "net.sockets/vsock": not any(_has_socket(40, kind) for kind in (1, 2, 5)),
        "syscall.allowlist/io-uring": _setting("kernel/io_uring_disabled", "0") != "0",
        "syscall.terminal-injection/type": _setting("dev/tty/legacy_tiocsti", "1") != "1",
        "syscall.terminal-injection/type-high-bits": _setting("dev/tty/legacy_tiocsti", "1") != "1",
        "resource.memory/locked": not root,
        "resource.disk/core-dump": _setting("kernel/core_pattern", "core").startswith("|"),
    }
    missing = {name for name, gone in absent.items() if gone} | (set() if root else set(ONLY_ROOT_CAN))
    levels = {item.control: item.level for item in report.results}
    # A limit that is called partial may still hold in a case.
    perhaps = {
        "process.freeze": {"process.freeze/act-while-frozen"},
        "resource.memory": {
            "resource.memory/memory-file",
            "resource.memory/many-processes",
            "resource.memory/system-v",
        },
        "resource.inodes": {"resource.inodes/workspace"},
        "resource.cpu": {"resource.cpu/burn"},
        "fs.second-wall": {"fs.second-wall/second-wall"},
    }
    unsure = set().union(*(names for control, names in perhaps.items() if levels[control] != "enforced"))
    if report.driver == "runsc":
        unsure.add("fs.ro-root/remount")  # its statfs doesn't tell what is read-only
    return missing, unsure


def _check(report: ProbeRunReport, *, root: bool) -> None:
    assert {item.id: item.inside for item in report.of(Verdict.ESCAPED)} == {}
    assert len(report.results) == len(PROBES)
    unproven = {item.id: item.reason for item in report.of(Verdict.INCONCLUSIVE)}
    expected, unsure = _expected(report, root=root)
    assert {name: reason for name, reason in unproven.items() if name not in expected | unsure} == {}
    assert expected - set(unproven) == set()
    assert all(unproven.values())
    assert all(item.inside and item.outside for item in report.of(Verdict.CONTAINED))


def _leftovers() -> list[str]:
    places = [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.home()]
    return [str(path) for place in places for path in [*place.glob("jubako-probe-*"), *place.glob(".jubako-probe-*")]]


def _lasting(before: list[str]) -> set[str]:
    """Return what was added and stays: another run of probes on this machine may be at work."""
    for _ in range(60):
        new = set(_leftovers()) - set(before)
        if not new:
            break
        time.sleep(1)
    return new


BOUNDARIES = [
    pytest.param("process", marks=pytest.mark.driver("bwrap")),
    pytest.param("gvisor", marks=pytest.mark.driver("runsc")),
]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_everything_is_contained_for_the_caller(boundary: str) -> None:
    before = _leftovers()
    seen: list[tuple[int, int]] = []
    report = anyio.run(
        lambda: run_probes(boundary=boundary, on_progress=lambda _result, number, total: seen.append((number, total)))
    )
    _check(report, root=os.geteuid() == 0)
    assert seen == [(number, len(PROBES)) for number in range(1, len(PROBES) + 1)]
    assert load_results(report.driver, version=report.version) == report
    assert _lasting(before) == set()
    assert "JUBAKO_PROBE_SECRET" not in os.environ


def test_an_escape_refuses_launches_until_a_run_without_it() -> None:
    only = ("fs.mounts", "net.sockets/vsock")
    report = anyio.run(lambda: run_probes(only=only, store=False))
    escape = replace(report.results[0], verdict=Verdict.ESCAPED)
    store_results(replace(report, complete=True, results=(escape, *report.results[1:])))
    with pytest.raises(PolicyNotEnforceableError, match=r"fs\.mounts"):
        anyio.run(_launch)
    again = anyio.run(lambda: run_probes(only=only, store=False))
    assert again.exit_status == 0
    store_results(replace(again, complete=True))
    anyio.run(_launch)


async def _launch() -> None:
    # With a mount, so that the control applies.
    policy = {"files": {"mounts": [{"source": "/usr/share", "target": "/mnt/share"}]}}
    async with AsyncSandbox(policy=policy) as box:
        assert box.card().probes is not None


@pytest.mark.root
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_everything_is_contained_for_an_ordinary_user(tmp_path: Path, boundary: str) -> None:
    home = Path("/var/tmp") / f"jubako-test-{tmp_path.name}-{os.getpid()}"
    home.mkdir(mode=0o700)
    try:
        os.chown(home, ORDINARY, ORDINARY)
        done = subprocess.run(
            [sys.executable, "-B", "-c", COMMAND, "probe", "--boundary", boundary, "--json"],
            capture_output=True,
            cwd="/",
            env={
                "HOME": str(home),
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            },
            user=ORDINARY,
            group=ORDINARY,
            extra_groups=[],
            check=False,
        )
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)
    if done.returncode not in {0, 1, 3}:
        pytest.fail(f"probe ended with {done.returncode}: {done.stdout.decode()[-500:]} {done.stderr.decode()[-2000:]}")
    document = json.loads(done.stdout)
    report = from_document(document)
    _check(report, root=False)
    assert report.uid == ORDINARY
    assert done.returncode == report.exit_status
    assert done.stderr == b""
