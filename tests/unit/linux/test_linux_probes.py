"""Landlock, user namespaces and /proc readers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jubako.linux import procinfo
from jubako.linux.landlock import ACCESS_FS, landlock_abi, landlock_support
from jubako.linux.procinfo import ProcessId
from jubako.linux.seccomp import DEFAULT, Group, Profile, Verdict
from jubako.linux.userns import probe_userns


def test_landlock_version_is_the_kernels() -> None:
    version, reason = landlock_support()
    assert version == landlock_abi()
    assert (version > 0) == (reason is None)
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    listed = Path("/sys/kernel/security/lsm")
    if version:
        assert release >= (5, 13)
    elif listed.exists():
        assert "landlock" not in listed.read_text()


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.ENOSYS, "landlock-missing"), (Verdict.EPERM, "landlock-refused")]
)
def test_missing_landlock_is_said(verdict: Verdict, code: str) -> None:
    """A filter answers as a kernel without Landlock would."""
    calls = {"landlock_create_ruleset"}
    groups = tuple(
        Group(item.name, item.reason, tuple(set(item.syscalls) - calls), item.verdict) for item in DEFAULT.groups
    )
    profile = Profile("none", (*groups, Group("gone", "tested here", tuple(calls), verdict)), DEFAULT.rules)
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from linux_bpf import load
from jubako.linux.landlock import landlock_support
load(sys.stdin.buffer.read())
version, reason = landlock_support()
print(version, reason.code, reason.text)
"""
    from jubako.linux.seccomp import compile_filter

    done = subprocess.run(
        [sys.executable, "-c", script], input=compile_filter(profile), capture_output=True, check=True
    )
    assert done.stdout.decode().startswith(f"0 {code} ")


def test_landlock_rights_are_one_bit_each() -> None:
    bits = [bit for bit, _ in ACCESS_FS.values()]
    assert bits == [1 << number for number in range(len(bits))]


def _sysctl(root: Path, **values: int) -> str:
    for name, value in values.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return str(root)


def _script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_user_namespaces_that_work_are_found(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("util-linux is not installed")
    works, reasons = probe_userns()
    assert works == (reasons == ())
    # Switches that look wrong do not count when it works all the same.
    fine = probe_userns(
        sysctl=_sysctl(tmp_path, user__max_user_namespaces=0), unshare=_script(tmp_path / "u", "exit 0")
    )
    assert fine == (True, ())


def test_switches_that_forbid_user_namespaces_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    sysctl = _sysctl(
        tmp_path / "sys",
        user__max_user_namespaces=0,
        kernel__unprivileged_userns_clone=0,
        kernel__apparmor_restrict_unprivileged_userns=1,
    )
    (tmp_path / "mountinfo").write_text(
        "22 1 0:21 / /proc rw - proc proc rw\n"
        "23 22 0:21 /kcore /proc/kcore rw - tmpfs tmpfs rw\n"
        "24 22 0:22 / /proc/sys/fs/binfmt_misc rw - binfmt_misc binfmt_misc rw\n"
    )
    refusing = _script(tmp_path / "unshare", "echo 'unshare: Operation not permitted' >&2; exit 1")
    works, reasons = probe_userns(sysctl=sysctl, mountinfo=str(tmp_path / "mountinfo"), unshare=refusing)
    assert not works
    assert [reason.code for reason in reasons] == [
        "userns-disabled",
        "userns-root-only",
        "userns-apparmor",
        "proc-masked",
    ]
    assert all(reason.remedy and reason.text for reason in reasons)
    assert "/proc/kcore" in reasons[-1].text
    assert "binfmt" not in reasons[-1].text


def test_refusal_without_a_switch_is_quoted(tmp_path: Path) -> None:
    refusing = _script(tmp_path / "unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("22 1 0:21 / /proc rw - proc proc rw\n")
    works, (reason,) = probe_userns(sysctl=str(tmp_path), mountinfo=str(mountinfo), unshare=refusing)
    assert not works
    assert (reason.code, "Operation not permitted" in reason.text) == ("userns-refused", True)
    silent = _script(tmp_path / "silent", "exit 9")
    assert "exit status 9" in probe_userns(sysctl=str(tmp_path), mountinfo=str(mountinfo), unshare=silent)[1][0].text
    _, (gone,) = probe_userns(sysctl=str(tmp_path), mountinfo=str(mountinfo), unshare=str(tmp_path / "none"))
    assert gone.code == "userns-refused"
    _, (blind,) = probe_userns(sysctl=str(tmp_path), mountinfo=str(tmp_path / "none"), unshare=silent)
    assert blind.code == "proc-missing"


def test_user_namespaces_as_an_ordinary_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become an ordinary user")
    script = (
        "import json; from jubako.linux.userns import probe_userns; ok, why = probe_userns()\n"
        "print(json.dumps([ok, [[r.code, r.text] for r in why]]))"
    )
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", script],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}, cwd="/",
    )  # fmt: skip
    works, reasons = json.loads(done.stdout)
    assert works == (not reasons)


def test_identity_of_a_process_survives_pid_reuse() -> None:
    own = procinfo.process_id()
    assert own is not None
    assert own.alive()
    assert own == procinfo.process_id(os.getpid())
    assert str(own) == f"{own.pid}-{own.start}-{own.boot[:8]}"
    assert not ProcessId(own.pid, own.start + 1, own.boot).alive()
    assert not ProcessId(own.pid, own.start, "other").alive()
    with subprocess.Popen(["sleep", "60"]) as child:
        identity = procinfo.process_id(child.pid)
        assert identity is not None
        assert identity.alive()
        child.kill()
    assert not identity.alive()
    assert procinfo.process_id(child.pid) is None
    assert procinfo.parent_pid(child.pid) is None


def test_commands_with_brackets_do_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 (x"
    shutil.copy("/bin/sleep", odd)
    with subprocess.Popen([str(odd), "60"]) as child:
        assert procinfo.parent_pid(child.pid) == os.getpid()
        child.kill()


def test_children_and_descendants() -> None:
    with subprocess.Popen(["sh", "-c", "(sleep 60 & echo $!; wait) & wait"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        sleeper = int(child.stdout.readline())
        assert child.pid in procinfo.children(os.getpid())
        below = procinfo.descendants(child.pid)
        assert sleeper in below
        assert procinfo.children(child.pid) < below
        for pid in below:
            os.kill(pid, 9)
    assert procinfo.children(child.pid) == frozenset()
    assert procinfo.descendants(child.pid) == frozenset()


def test_pid_namespaces_are_told_apart() -> None:
    own = procinfo.namespace_inode(os.getpid())
    assert own is not None
    assert os.getpid() in procinfo.processes_in_pidns(own)
    command = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "echo ready; exec sleep 60"]
    if os.geteuid() != 0:
        command[1:1] = ["--user", "--map-current-user"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        if child.stdout is None or child.stdout.readline() != b"ready\n":
            pytest.skip("no pid namespaces for this user")
        (first,) = procinfo.children(child.pid)
        inode = procinfo.namespace_inode(first)
        assert inode not in {own, None}
        assert inode is not None
        inside = procinfo.processes_in_pidns(inode)
        assert first in inside
        assert os.getpid() not in inside
        assert inside == {first}
        child.kill()
    assert procinfo.namespace_inode(child.pid) is None


def test_boot_id_is_stable() -> None:
    assert len(procinfo.boot_id()) == 36
    assert procinfo.boot_id() == procinfo.boot_id()
