"""Groups in the running kernel: limits bite and are counted, freeze, kill and destroy leave nothing."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from jubako.errors import BoundaryError, LaunchError
from jubako.linux.cgroup import (
    Ability,
    Cgroup,
    CgroupManager,
    CgroupSupport,
    Hierarchy,
    Limits,
    Mechanism,
    list_groups,
    mounts,
    probe_cgroups,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def support() -> CgroupSupport:
    found = probe_cgroups()
    if not found.hierarchies:
        pytest.skip("; ".join({reason.text for reason in found.reasons.values()}))
    return found


def _second_version() -> CgroupSupport | None:
    """Return v2 alone, as far as this machine has it: freezing and killing need no controller."""
    for mount in mounts("/proc", None):
        if mount.version == 2 and os.access(mount.own, os.W_OK):
            how = {Ability.FREEZE: Mechanism.V2, Ability.KILL: Mechanism.V2}
            return CgroupSupport(how, {}, (Hierarchy(2, mount.own, frozenset({""}), mount.point),))
    return None


@pytest.fixture(params=["probed", "v2"])
def any_support(request: pytest.FixtureRequest, support: CgroupSupport) -> CgroupSupport:
    found = support if request.param == "probed" else _second_version()
    if found is None:
        pytest.skip("no writable cgroup v2 here")
    return found


@pytest.fixture
def make(support: CgroupSupport) -> Iterator[Callable[..., Cgroup]]:
    yield from _maker(support)


@pytest.fixture
def make_any(any_support: CgroupSupport) -> Iterator[Callable[..., Cgroup]]:
    yield from _maker(any_support)


def _maker(support: CgroupSupport) -> Iterator[Callable[..., Cgroup]]:
    manager = CgroupManager(support)
    made: list[Cgroup] = []

    def make_one(**limits: float) -> Cgroup:
        name = f"test{os.getpid()}-{next(_NUMBERS)}"
        made.append(manager.create(name, Limits(**limits)))  # type: ignore[arg-type]  # a plain keyword call
        return made[-1]

    yield make_one
    for group in made:
        group.destroy()
    assert not {group.name for group in made} & manager.names()
    assert not [path for group in made for path in group.directories if os.path.exists(path)]  # noqa: PTH110  # short
    manager.close()


def need(support: CgroupSupport, *abilities: Ability) -> None:
    for ability in abilities:
        if support.mechanism(ability) is None:
            pytest.skip(support.reasons[ability].text)


class Program(subprocess.Popen[bytes]):
    """A program in a group; a test that fails ends it."""

    def __init__(self, group: Cgroup, *argv: str) -> None:
        super().__init__([*group.launcher(), *argv], stdout=subprocess.PIPE)
        self.group = group

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            self.group.kill()
        super().__exit__(kind, *rest)  # type: ignore[arg-type]  # passed on as they come


def start(group: Cgroup, *argv: str) -> Program:
    return Program(group, *argv)


def python(group: Cgroup, script: str) -> Program:
    return start(group, sys.executable, "-S", "-c", script)


def settled(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


def test_probe_leaves_nothing(support: CgroupSupport) -> None:
    assert not [name for name in list_groups(support) if name.startswith(f"probe-{os.getpid()}-")]
    assert support.how.keys() | support.reasons.keys() == set(Ability)
    assert not support.how.keys() & support.reasons.keys()


def test_limits_read_back(support: CgroupSupport, make: Callable[..., Cgroup]) -> None:
    need(support, Ability.MEMORY, Ability.PROCESSES, Ability.CPU)
    group = make(memory=100 * MIB + 5, swap=0, processes=17, cpus=0.25, io_bytes_per_second=5 * MIB)
    results = {result.ability: result for result in group.results}
    for ability in (Ability.MEMORY, Ability.SWAP, Ability.PROCESSES, Ability.CPU, Ability.IO):
        assert results[ability].verified == (support.mechanism(ability) is not None)
    assert results[Ability.MEMORY].seen.endswith(str(100 * MIB))  # whole pages
    assert results[Ability.PROCESSES].seen == "pids.max=17"
    assert "25000" in results[Ability.CPU].seen


def test_memory_bomb_is_killed_and_counted(support: CgroupSupport, make: Callable[..., Cgroup]) -> None:
    need(support, Ability.MEMORY)
    group = make(memory=48 * MIB, swap=0)
    bomb = python(group, "print('started', flush=True); x = bytearray(200 << 20); print('survived')")
    output, _ = bomb.communicate(timeout=60)
    assert (bomb.returncode, output) == (-9, b"started\n")
    assert group.counters()["resource.memory"] >= 1
    peak = group.usage().memory_peak
    assert peak is None or 40 * MIB < peak <= 48 * MIB
    modest = python(group, "x = bytearray(8 << 20); print('fine')")
    assert modest.communicate(timeout=60)[0] == b"fine\n"


def test_fork_bomb_is_held_and_counted(support: CgroupSupport, make: Callable[..., Cgroup]) -> None:
    need(support, Ability.PROCESSES)
    group = make(processes=8)
    bomb = python(
        group,
        "import os, time\nmade = 0\n"
        "try:\n  while made < 100:\n    if not os.fork(): time.sleep(60)\n    made += 1\n"
        "except OSError as error: print(made, error.errno, flush=True); time.sleep(60)",
    )
    assert bomb.stdout is not None
    assert bomb.stdout.readline() == b"7 11\n"  # EAGAIN
    assert group.counters()["resource.processes"] >= 1
    assert group.usage().processes == 8
    assert len(group.pids()) == 8
    group.kill()
    assert group.pids() == frozenset()
    assert bomb.wait() == -9
    bomb.stdout.close()


def test_cpu_is_held(support: CgroupSupport, make: Callable[..., Cgroup]) -> None:
    need(support, Ability.CPU)
    group = make(cpus=0.1)
    began = time.monotonic()
    with start(group, "sh", "-c", "while :; do :; done") as busy:
        time.sleep(1.0)
        busy.kill()
        busy.wait()
    passed = time.monotonic() - began
    used = group.usage().cpu_seconds
    assert used is not None
    assert 0.02 < used < 0.1 * passed + 0.15


def test_usage_counts_what_runs(support: CgroupSupport, make: Callable[..., Cgroup]) -> None:
    need(support, Ability.MEMORY, Ability.PROCESSES)
    group = make(memory=200 * MIB, processes=10)
    empty = group.usage()
    assert (empty.processes, empty.memory) == (0, 0)
    assert group.counters() == {"resource.memory": 0, "resource.processes": 0}
    with python(group, "x = bytearray(b'x') * (30 << 20); print(1, flush=True); import time; time.sleep(60)") as child:
        assert child.stdout is not None
        child.stdout.readline()
        full = group.usage()
        group.kill()
    assert full.processes == 1
    assert full.memory is not None
    assert full.memory > 30 * MIB
    assert full.cpu_seconds is not None
    assert 0 < full.cpu_seconds < 60


def test_nothing_runs_while_frozen(make_any: Callable[..., Cgroup]) -> None:
    group = make_any()
    with start(group, "sh", "-c", "while :; do :; done") as busy:

        def ticks() -> int:
            with open(f"/proc/{busy.pid}/stat", encoding="ascii") as file:  # noqa: PTH123  # short
                return int(file.read().rpartition(")")[2].split()[11])

        assert settled(lambda: busy.pid in group.pids() and ticks() > 0)
        group.freeze()
        before = ticks()
        time.sleep(0.2)
        assert ticks() == before
        group.freeze()  # idempotent
        group.thaw()
        group.thaw()
        assert settled(lambda: ticks() > before)
        group.freeze()
        group.destroy()  # also when frozen
        assert busy.wait(timeout=10) == -9


def test_whole_tree_is_killed_while_it_forks(make_any: Callable[..., Cgroup]) -> None:
    group = make_any()
    script = (
        "import os, time\n"
        "print(1, flush=True)\n"
        "while True:\n"
        "  if os.fork() == 0:\n"
        "    os.setsid(); time.sleep(0.02)\n"
        "    if os.fork(): os._exit(0)\n"
        "    time.sleep(0.05); os._exit(0)\n"
        "  time.sleep(0.01)\n"
        "  try: os.waitpid(-1, os.WNOHANG)\n"
        "  except OSError: pass\n"
    )
    with python(group, script) as forking:
        assert forking.stdout is not None
        forking.stdout.readline()
        assert settled(lambda: len(group.pids()) > 2)
        group.kill()
        assert group.pids() == frozenset()
        group.kill()


def test_attach_moves_a_running_process(make_any: Callable[..., Cgroup]) -> None:
    group = make_any()
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid not in group.pids()
        group.attach(child.pid)
        assert group.pids() == {child.pid}
        group.destroy()
        assert child.wait(timeout=10) == -9
    with pytest.raises(LaunchError, match="can't be moved"):
        group.attach(child.pid)


def test_launcher_fails_closed(make_any: Callable[..., Cgroup]) -> None:
    group = make_any()
    group.destroy()
    done = subprocess.run([*group.launcher(), "echo", "ran"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (125, b"")


def test_launcher_passes_arguments_unchanged(make_any: Callable[..., Cgroup]) -> None:
    group = make_any()
    odd = ["a b", "$HOME", "'", "", "*", "-n", "\n"]
    child = start(group, sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *odd)
    assert child.communicate()[0].decode().strip() == ascii(odd)


def test_names_are_unique_and_checked(support: CgroupSupport, make: Callable[..., Cgroup]) -> None:
    group = make()
    manager = CgroupManager(support)
    with pytest.raises(LaunchError, match="can't be made"):
        manager.create(group.name, Limits())
    assert group.name in manager.names()
    assert all(os.access(path, os.F_OK) for path in group.directories)
    for name in ("", "..", "a/b", ".hidden", "cgroup.procs", "x" * 200, "a\n"):
        with pytest.raises(ValueError, match="not a group name"):
            manager.create(name, Limits())


def test_leftover_is_found_and_removed_by_name(support: CgroupSupport, make: Callable[..., Cgroup]) -> None:
    group = make(processes=10)
    with start(group, "sleep", "60") as child:
        assert settled(lambda: child.pid in group.pids())
        other = CgroupManager(support)
        assert group.name in other.names()
        found = other.open(group.name)
        assert found.pids() == {child.pid}
        found.destroy()
        assert child.wait(timeout=10) == -9
    assert group.name not in other.names()
    found.destroy()
    group.destroy()
    assert (group.pids(), group.counters()) == (frozenset(), {})


def test_leftover_of_another_session_is_found_and_reaped(support: CgroupSupport) -> None:
    """The dead owner ran below another group than we do, as after a new login."""
    name = f"test{os.getpid()}-session"
    elsewhere = []
    for item in support.hierarchies:
        base = f"{item.base}/{name}"
        os.mkdir(base)  # noqa: PTH102  # short
        elsewhere.append(Hierarchy(item.version, base, item.controllers, item.point))
    dead = CgroupManager(CgroupSupport(support.how, support.reasons, tuple(elsewhere), support.disks))
    group = dead.create(f"{name}-left", Limits(processes=10))
    with start(group, "sleep", "60") as child:
        assert settled(lambda: child.pid in group.pids())
        manager = CgroupManager(support)
        assert group.name in manager.names()
        manager.reap(group.name)
        assert child.wait(timeout=10) == -9
        manager.reap(group.name)
    assert group.name not in manager.names()
    for item in elsewhere:
        os.rmdir(item.base)  # noqa: PTH106  # fails if anything was left below


def test_empty_parents_of_the_dead_are_removed(support: CgroupSupport) -> None:
    item = support.hierarchies[0]
    base = f"{item.base}/test{os.getpid()}-dead"
    os.mkdir(base)  # noqa: PTH102  # short
    os.mkdir(f"{base}/jubako")  # noqa: PTH102  # short
    CgroupManager(support).names()
    os.rmdir(base)  # noqa: PTH106  # fails if anything was left below


def test_refused_limit_leaves_nothing(support: CgroupSupport) -> None:
    need(support, Ability.PROCESSES, Ability.MEMORY)
    manager = CgroupManager(support)
    name = f"test{os.getpid()}-refused"
    with pytest.raises(LaunchError, match=r"processes: pids\.max: Invalid argument"):
        manager.create(name, Limits(memory=64 * MIB, processes=1 << 40))
    assert name not in manager.names()
    manager.close()


def test_parent_is_remade_when_another_owner_removed_it(support: CgroupSupport) -> None:
    manager = CgroupManager(support)
    for number in range(3):
        group = manager.create(f"test{os.getpid()}-again{number}", Limits(processes=5))
        group.destroy()
        CgroupManager(support).close()


def test_no_freezer_is_said_and_kill_works_without(support: CgroupSupport) -> None:
    need(support, Ability.PROCESSES)
    bare = [item for item in support.hierarchies if "pids" in item.controllers and item.version == 1]
    if not bare:
        pytest.skip("needs cgroup v1 pids")
    manager = CgroupManager(CgroupSupport({Ability.PROCESSES: Mechanism.V1}, {}, tuple(bare)))
    group = manager.create(f"test{os.getpid()}-bare", Limits(memory=64 * MIB, processes=20))
    missing = next(result for result in group.results if result.ability is Ability.MEMORY)
    assert (missing.verified, missing.mechanism, missing.error) == (False, None, "not available here")
    with pytest.raises(BoundaryError, match="no cgroup freezer"):
        group.freeze()
    with start(group, "sh", "-c", "sleep 60 & sleep 60") as child:
        assert settled(lambda: len(group.pids()) > 1)
        group.destroy()
        assert child.wait(timeout=10) == -9
    assert group.usage().cpu_seconds is None
    manager.close()


def test_ordinary_user_is_told_why(support: CgroupSupport) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become an ordinary user")
    script = (
        "import json; from jubako.linux.cgroup import probe_cgroups; found = probe_cgroups()\n"
        "print(json.dumps([sorted(found.how), {k: [r.code, r.text, r.remedy] for k, r in found.reasons.items()}]))"
    )
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", script],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}, cwd="/",
    )  # fmt: skip
    how, reasons = json.loads(done.stdout)
    assert how == []
    assert set(reasons) == set(Ability)
    for code, text, remedy in reasons.values():
        assert code == "cgroup-not-writable"
        assert text
        assert remedy


def test_empty_groups_below_are_removed_too(make_any: Callable[..., Cgroup]) -> None:
    group = make_any()
    for path in group.directories:
        os.makedirs(f"{path}/one/two")  # noqa: PTH103  # short
    group.destroy()
    assert not [path for path in group.directories if os.access(path, os.F_OK)]


def test_tighter_quota_further_up_is_taken_over(support: CgroupSupport) -> None:
    """v1 refuses a share of CPU above that of a group further up."""
    found = [item for item in support.hierarchies if "cpu" in item.controllers and item.version == 1]
    if not found:
        pytest.skip("needs cgroup v1 cpu")
    base = f"{found[0].base}/test{os.getpid()}-tight"
    os.mkdir(base)  # noqa: PTH102  # short
    with open(f"{base}/cpu.cfs_quota_us", "w", encoding="ascii") as file:  # noqa: PTH123  # short
        file.write("30000")
    tight = Hierarchy(1, base, found[0].controllers, found[0].point)
    manager = CgroupManager(CgroupSupport({Ability.CPU: Mechanism.V1}, {}, (tight,)))
    group = manager.create(f"test{os.getpid()}-cpu", Limits(cpus=1.0))
    assert group.results[0].verified
    assert group.results[0].seen.endswith("cpu.cfs_quota_us=30000")
    group.destroy()
    manager.close()
    os.rmdir(base)  # noqa: PTH106  # fails if anything was left below
