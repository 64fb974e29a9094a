"""Machines that are not at hand: pure v2, containers, read-only trees, systemd user managers. Trees of plain files."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jubako.errors import LaunchError
from jubako.linux.cgroup import (
    Ability,
    CgroupManager,
    CgroupSupport,
    Limits,
    Mechanism,
    Mount,
    adopt_scope,
    mounts,
    probe_cgroups,
    systemd_scope_prefix,
)
from jubako.linux.cgroup._files import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
ALL = ("cpu", "io", "memory", "pids")
FILES = {
    "cpu": {"cpu.max": ""},
    "io": {"io.max": ""},
    "memory": {
        "memory.max": "",
        "memory.swap.max": "",
        "memory.current": "4096\n",
        "memory.peak": "8192\n",
        "memory.events": "low 0\noom 3\noom_kill 2\n",
    },
    "pids": {"pids.max": "", "pids.current": "3\n", "pids.events": "max 5\n"},
}


class FakeTree(Tree):
    """Groups whose control files are plain files; ``absent`` ones are missing, ``deaf`` ones take no value."""

    def __init__(self, absent: Sequence[str] = (), deaf: Sequence[str] = ()) -> None:
        self.absent, self.deaf = absent, deaf
        self.made: list[str] = []

    def make(self, path: str) -> None:
        super().make(path)
        self.made.append(path)
        populate(Path(path), (Path(path).parent / "cgroup.subtree_control").read_text().split())
        for name in self.absent:
            (Path(path) / name).unlink(missing_ok=True)
        for name in self.deaf:
            (Path(path) / name).unlink(missing_ok=True)
            (Path(path) / name).symlink_to("/dev/null")

    def remove(self, path: str) -> None:
        target = Path(path)
        if any(child.is_dir() for child in target.iterdir()):
            raise OSError(errno.EBUSY, "busy")
        shutil.rmtree(target)


def populate(directory: Path, controllers: Sequence[str]) -> None:
    basic = {
        "cgroup.procs": "",
        "cgroup.controllers": " ".join(controllers),
        "cgroup.subtree_control": " ".join(controllers),
        "cgroup.events": "populated 0\nfrozen 0\n",
        "cgroup.freeze": "0",
        "cgroup.kill": "",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
    }
    for name, text in basic.items():
        (directory / name).write_text(text)
    for controller in controllers:
        for name, text in FILES[controller].items():
            (directory / name).write_text(text)


class Machine:
    """A made-up /proc, /sys/block and cgroup tree."""

    def __init__(self, root: Path, *, own: str = "/app.slice/job.service", controllers: Sequence[str] = ALL) -> None:
        self.root, self.point = root, root / "cgroup fs"
        self.point.mkdir()
        populate(self.point, controllers)
        directory = self.point
        for part in Path(own.strip("/")).parts:
            directory /= part
            directory.mkdir()
            populate(directory, controllers)
        self.own = directory
        self.proc = root / "proc"
        (self.proc / "self").mkdir(parents=True)
        self.set(f"0::{own}\n", self.line("cgroup2", "rw,nsdelegate"))
        for name, number in (("nbd0", "43:0"), ("loop0", "7:0"), ("nvme0n1", "259:0")):
            (root / "block" / name).mkdir(parents=True)
            (root / "block" / name / "dev").write_text(f"{number}\n")
            (root / "block" / name / "size").write_text("0\n" if name == "nbd0" else "2048\n")

    def line(self, kind: str, options: str, *, root: str = "/", point: Path | None = None) -> str:
        where = str(point or self.point).replace(" ", "\\040")
        return f"30 23 0:26 {root} {where} rw,nosuid - {kind} {kind} {options}\n"

    def set(self, cgroup: str, mountinfo: str) -> None:
        (self.proc / "self/cgroup").write_text(cgroup)
        (self.proc / "self/mountinfo").write_text(f"22 1 0:1 / / rw - ext4 /dev/x rw\n{mountinfo}")

    def probe(self, tree: FakeTree | None = None, **options: str) -> CgroupSupport:
        return probe_cgroups(
            proc=str(self.proc), sys_block=str(self.root / "block"), environ={}, tree=tree or FakeTree(),
            parent=options.get("parent"),
        )  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_v2_holds_everything(machine: Machine) -> None:
    tree = FakeTree()
    support = machine.probe(tree)
    assert support.how == dict.fromkeys(Ability, Mechanism.V2)
    assert support.reasons == {}
    assert support.disks == ("259:0",)
    assert [item.base for item in support.hierarchies] == [str(machine.own)]
    assert not (machine.own / "jubako").exists()
    manager = CgroupManager(support, tree)
    group = manager.create("owner-box", Limits(64 * MIB, 0, 20, 0.5, 5 * MIB))
    assert all(result.verified for result in group.results)
    directory = machine.own / "jubako/owner-box"
    assert {name: (directory / name).read_text().strip() for name in ("memory.max", "pids.max", "cpu.max")} == {
        "memory.max": str(64 * MIB),
        "pids.max": "20",
        "cpu.max": "50000 100000",
    }
    assert (directory / "memory.swap.max").read_text() == "0"
    assert group.counters() == {"resource.memory": 2, "resource.processes": 5}
    usage = group.usage()
    assert (usage.cpu_seconds, usage.memory, usage.memory_peak, usage.processes) == (1.5, 4096, 8192, 3)
    assert manager.names() == {"owner-box"}
    group.destroy()
    group.destroy()
    manager.close()
    assert not (machine.own / "jubako").exists()


def test_a_limit_that_reads_back_differently_leaves_nothing(machine: Machine) -> None:
    support = machine.probe()
    manager = CgroupManager(support, FakeTree(deaf=["pids.max"]))
    with pytest.raises(LaunchError, match=r"processes: pids\.max reads back ''"):
        manager.create("owner-box", Limits(memory=64 * MIB, processes=20))
    assert manager.names() == frozenset()
    assert not (machine.own / "jubako/owner-box").exists()


def test_a_control_file_that_went_away_leaves_nothing(machine: Machine) -> None:
    support = machine.probe()
    tree = FakeTree(absent=["memory.max"])
    with pytest.raises(LaunchError, match=r"memory\.max No such file"):
        CgroupManager(support, tree).create("owner-box", Limits(memory=64 * MIB))
    assert not (machine.own / "jubako/owner-box").exists()


def test_missing_swap_accounting_is_said(machine: Machine) -> None:
    support = machine.probe(FakeTree(absent=["memory.swap.max"]))
    assert support.mechanism(Ability.SWAP) is None
    assert support.mechanism(Ability.MEMORY) is Mechanism.V2
    reason = support.reasons[Ability.SWAP]
    assert (reason.code, reason.text) == ("cgroup-file-missing", "the kernel has no memory.swap.max")
    assert "swapaccount" in reason.remedy
    group = CgroupManager(support, FakeTree(absent=["memory.swap.max"])).create("a-b", Limits(64 * MIB, 0))
    assert {result.ability: result.verified for result in group.results} == {Ability.MEMORY: True, Ability.SWAP: False}


def test_missing_controllers_are_said(tmp_path: Path) -> None:
    support = Machine(tmp_path, controllers=("memory", "pids")).probe()
    assert set(support.how) == set(Ability) - {Ability.CPU, Ability.IO}
    assert support.reasons[Ability.CPU].code == "cgroup-no-controller"
    assert "cpu controller" in support.reasons[Ability.CPU].text


def test_a_group_further_up_is_used_when_ours_hands_nothing_down(machine: Machine) -> None:
    (machine.own / "cgroup.subtree_control").unlink()
    (machine.own / "cgroup.subtree_control").symlink_to("/dev/null")
    support = machine.probe()
    assert [item.base for item in support.hierarchies] == [str(machine.own.parent)]
    assert support.how == dict.fromkeys(Ability, Mechanism.V2)


def test_a_group_with_processes_is_never_turned_into_a_tree_of_threads(machine: Machine) -> None:
    """The kernel would let us enable cpu and pids there, and the group could hold no other groups of processes."""
    for name, text in (("cgroup.type", "domain\n"), ("cgroup.procs", "1\n2\n"), ("cgroup.subtree_control", "")):
        (machine.own / name).write_text(text)
    support = machine.probe()
    assert [item.base for item in support.hierarchies] == [str(machine.own.parent)]
    assert (machine.own / "cgroup.subtree_control").read_text() == ""
    assert machine.probe(parent="/app.slice/job.service").how.keys() == {Ability.FREEZE, Ability.KILL}
    assert (machine.own / "cgroup.subtree_control").read_text() == ""


def test_given_parent_is_used(machine: Machine) -> None:
    given = machine.point / "delegated"
    given.mkdir()
    populate(given, ALL)
    support = machine.probe(parent="/delegated")
    assert [item.base for item in support.hierarchies] == [str(given)]
    outside = machine.probe(parent="/../..")
    assert (outside.how, outside.hierarchies) == ({}, ())


def test_nothing_mounted_is_said(machine: Machine) -> None:
    machine.set("", "")
    support = machine.probe()
    assert support.how == {}
    assert {reason.code for reason in support.reasons.values()} == {"cgroup-not-mounted"}


def test_unreadable_proc_is_said(machine: Machine) -> None:
    shutil.rmtree(machine.proc / "self")
    support = machine.probe()
    assert {reason.code for reason in support.reasons.values()} == {"cgroup-unreadable"}
    assert set(support.reasons) == set(Ability)


def test_refused_group_is_said(machine: Machine) -> None:
    class Refusing(FakeTree):
        def make(self, path: str) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted", path)

    support = machine.probe(Refusing())
    assert (support.how, support.hierarchies) == ({}, ())
    assert {support.reasons[name].code for name in (Ability.MEMORY, Ability.CPU)} == {"cgroup-refused"}
    assert all(reason.remedy for reason in support.reasons.values())


@pytest.mark.parametrize(
    ("root", "own", "wanted"),
    [
        ("/", "/a/b", "a/b"),
        ("/docker/1", "/docker/1", ""),
        ("/docker/1", "/docker/1/job", "job"),
        ("/docker/1", "/docker/12", ""),
        ("/", "/../outside", ""),
        ("/", "/gone", ""),
        ("/", "/", ""),
    ],
)
def test_our_own_group_is_found_behind_any_mount(machine: Machine, root: str, own: str, wanted: str) -> None:
    for name in ("a/b", "job"):
        (machine.point / name).mkdir(parents=True)
    machine.set(f"0::{own}\n", machine.line("cgroup2", "rw", root=root))
    (found,) = mounts(str(machine.proc), None)
    assert Path(found.own) == machine.point / wanted


def test_comounted_v1_controllers_share_a_directory(machine: Machine) -> None:
    point = machine.root / "cpu,cpuacct"
    point.mkdir()
    line = machine.line("cgroup", "rw,cpu,cpuacct", point=point)
    machine.set("4:cpu,cpuacct:/x\n1:name=systemd:/\n", line + line + machine.line("cgroup", "rw,xattr,name=systemd"))
    found = mounts(str(machine.proc), None)
    assert [(item.version, item.controllers) for item in found] == [
        (1, frozenset({"cpu", "cpuacct"})),
        (1, frozenset({"name=systemd"})),
    ]
    assert found[0].own == str(point)


def test_scope_prefix_names_every_limit() -> None:
    prefix = systemd_scope_prefix(Limits(64 * MIB, 0, 20, 0.5, MIB), "jubako-1", disks=("/dev/sda",))
    assert prefix[:6] == ("systemd-run", "--user", "--scope", "--quiet", "--collect", "--unit=jubako-1")
    assert prefix[-1] == "--"
    wanted = {
        "MemoryMax=67108864",
        "MemorySwapMax=0",
        "TasksMax=20",
        "CPUQuota=50%",
        "IOReadBandwidthMax=/dev/sda 1048576",
    }
    assert {f"--property={item}" for item in wanted} < set(prefix)
    assert not [item for item in systemd_scope_prefix(Limits(), "x") if "Max" in item]


def _scope(machine: Machine, pid: int) -> Path:
    directory = machine.point / "user.slice/app.slice/jubako-1.scope"
    directory.mkdir(parents=True)
    populate(directory, ALL)
    (machine.proc / str(pid)).mkdir()
    (machine.proc / str(pid) / "cgroup").write_text("0::/user.slice/app.slice/jubako-1.scope\n")
    return directory


def test_scope_is_adopted_with_its_limits_read_back(machine: Machine) -> None:
    directory = _scope(machine, 77)
    (directory / "memory.max").write_text(f"{64 * MIB}\n")
    (directory / "pids.max").write_text("20\n")
    found = mounts(str(machine.proc), None)
    group = adopt_scope(77, "jubako-1", Limits(memory=64 * MIB, processes=20), found, proc=str(machine.proc))
    assert group.directories == (str(directory),)
    assert {result.mechanism for result in group.results} == {Mechanism.SYSTEMD}
    assert group.counters()["resource.memory"] == 2


def test_scope_that_is_late_or_gone_is_refused(machine: Machine) -> None:
    _scope(machine, 77)
    found = mounts(str(machine.proc), None)
    with pytest.raises(LaunchError, match="did not reach scope jubako-2"):
        adopt_scope(77, "jubako-2", Limits(), found, proc=str(machine.proc), timeout=0.02)
    with pytest.raises(LaunchError, match="ended before it reached"):
        adopt_scope(78, "jubako-1", Limits(), found, proc=str(machine.proc))


class TestUserManager:
    @pytest.fixture
    def session(self, tmp_path: Path) -> tuple[Machine, dict[str, str]]:
        machine = Machine(tmp_path, own="/user.slice/session-1.scope")
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/systemd-run").write_text("#!/bin/sh\n")
        (tmp_path / "bin/systemd-run").chmod(0o755)
        uid = os.getuid()
        service = machine.point / f"user.slice/user-{uid}.slice/user@{uid}.service"
        service.mkdir(parents=True)
        populate(service, ("memory", "pids"))
        return machine, {"PATH": str(tmp_path / "bin"), "XDG_RUNTIME_DIR": str(tmp_path)}

    def probe(self, machine: Machine, environ: dict[str, str]) -> CgroupSupport:
        class Refusing(FakeTree):
            def make(self, path: str) -> None:
                raise PermissionError(errno.EACCES, "Permission denied", path)

        return probe_cgroups(proc=str(machine.proc), environ=environ, tree=Refusing())

    def test_limits_by_scope(self, session: tuple[Machine, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
        machine, environ = session
        monkeypatch.chdir(machine.root)  # socket addresses are short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("bus")
            server.listen()
            support = self.probe(machine, environ | {"XDG_RUNTIME_DIR": "."})
        assert support.how == dict.fromkeys(
            (Ability.MEMORY, Ability.SWAP, Ability.PROCESSES, Ability.FREEZE, Ability.KILL), Mechanism.SYSTEMD
        )
        assert set(support.reasons) == {Ability.CPU, Ability.IO}
        assert support.hierarchies == ()

    @pytest.mark.parametrize("missing", ["PATH", "XDG_RUNTIME_DIR", "socket"])
    def test_says_what_is_missing(self, session: tuple[Machine, dict[str, str]], missing: str) -> None:
        machine, environ = session
        environ.pop(missing, None)
        if missing == "PATH":
            environ["PATH"] = "/nowhere"
        support = self.probe(machine, environ)
        assert support.how == {}
        assert set(support.reasons) == set(Ability)


def test_managers_without_a_hierarchy_refuse() -> None:
    with pytest.raises(LaunchError, match="no cgroup hierarchy"):
        CgroupManager(CgroupSupport({}, {})).create("a-b", Limits())


def test_adopting_needs_v2() -> None:
    with pytest.raises(LaunchError, match="no cgroup v2"):
        adopt_scope(os.getpid(), "x", Limits(), [Mount(1, "/x", "/x", frozenset({"memory"}))])
