"""What groups can do here, found by making one, limiting it, and removing it again."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jubako.boundary.contract import Reason
from jubako.errors import JubakoError
from jubako.linux.cgroup._files import Tree, read
from jubako.linux.cgroup.discover import disks, mounts
from jubako.linux.cgroup.group import Cgroup
from jubako.linux.cgroup.limits import CONTROLLER, apply
from jubako.linux.cgroup.manager import PARENT, enable_controllers, make_parents, make_places, only
from jubako.linux.cgroup.model import Ability, CgroupSupport, Hierarchy, Limits, Mechanism, Place
from jubako.linux.cgroup.systemd import systemd_abilities

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jubako.linux.cgroup.discover import Mount

__all__ = ["probe_cgroups"]

_TRIAL: Final = Limits(memory=64 << 20, swap=0, processes=64, cpus=0.01, io_bytes_per_second=1 << 30)
_NEEDS: Final = {Ability.SWAP: {Ability.MEMORY, Ability.SWAP}}
_V1_USED: Final = frozenset(first for first, _ in CONTROLLER.values()) | {"cpuacct", "freezer"}
_V2_USED: Final = frozenset(second for _, second in CONTROLLER.values())
_NOTHING: Final = frozenset({""})
_NO_ROOM: Final = Reason(
    "cgroup-not-writable",
    "no cgroup here may be written by this user",
    "run as root, in a unit with Delegate=yes, or where a systemd user manager runs (loginctl enable-linger)",
)


@dataclass(slots=True)
class _Findings:
    how: dict[Ability, Mechanism] = field(default_factory=dict[Ability, Mechanism])
    reasons: dict[Ability, Reason] = field(default_factory=dict[Ability, Reason])


def probe_cgroups(
    *,
    parent: str | None = None,
    proc: str = "/proc",
    sys_block: str = "/sys/block",
    environ: Mapping[str, str] | None = None,
    tree: Tree | None = None,
) -> CgroupSupport:
    """Return what groups can do here; makes and removes a trial group and never raises for "absent".

    ``parent`` is the path, inside every hierarchy, of a group to work in instead of our own. On v2
    the controllers that groups need stay handed down in the group that was chosen; nothing else stays.
    """
    tree = tree or Tree()
    findings = _Findings()
    try:
        found = mounts(proc, parent)
    except OSError as error:
        reason = Reason("cgroup-unreadable", f"{proc}/self can't be read: {error.strerror}", "mount /proc")
        return CgroupSupport({}, dict.fromkeys(Ability, reason))
    numbers = disks(sys_block)
    usable = [
        item
        for mount in found
        if (item := _usable(mount, tree, climb=parent is None)) is not None and _try(item, numbers, tree, findings)
    ]
    usable = _worth_it(usable)
    _whole_group(usable, findings)
    for ability in Ability:
        if ability not in findings.how:
            findings.reasons.setdefault(ability, _missing(ability, found))
    if Ability.MEMORY not in findings.how:
        _ask_systemd(found, os.environ if environ is None else environ, findings)
    return CgroupSupport(findings.how, findings.reasons, tuple(usable), numbers)


def _usable(mount: Mount, tree: Tree, *, climb: bool) -> Hierarchy | None:
    """Return where to work in this hierarchy, or None when it holds nothing for us or may not be written."""
    if mount.version == 1:
        names = mount.controllers & _V1_USED
        return Hierarchy(1, mount.own, names, mount.point) if names and _writable(mount.own) else None
    best: Hierarchy | None = None
    for directory in _upwards(mount.own, mount.point) if climb else [mount.own]:
        if not _writable(directory) or not os.access(f"{directory}/cgroup.procs", os.W_OK):
            break
        # Stepping aside is for groups that were chosen for us, or when nothing above can be used.
        names = enable_controllers(directory, _V2_USED, tree, may_move=not climb) & _V2_USED
        if best is None or len(names) + 1 > len(best.controllers):
            best = Hierarchy(2, directory, names | {""}, mount.point)
    if climb and best is not None and best.base == mount.own and best.controllers == _NOTHING:
        names = enable_controllers(best.base, _V2_USED, tree) & _V2_USED
        best = Hierarchy(2, best.base, names | {""}, mount.point)
    return best


def _upwards(own: str, point: str) -> Iterator[str]:
    while own.startswith(f"{point}/"):
        yield own
        own = own.rpartition("/")[0]
    yield point


def _writable(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)


def _try(item: Hierarchy, numbers: Sequence[str], tree: Tree, findings: _Findings) -> bool:
    """Make a trial group in one hierarchy, note what works there, remove it; False when none can be made."""
    name = next(name for name in _trial_names() if not os.access(f"{item.base}/{PARENT}/{name}", os.F_OK))
    places: dict[str, Place] = {}
    try:
        make_parents([item], tree)
        places = make_places(name, [item], tree)
        for ability in CONTROLLER:
            _try_ability(ability, places, numbers, findings)
    except (OSError, JubakoError) as error:
        reason = Reason("cgroup-refused", f"{item.base}: {error}", _NO_ROOM.remedy)
        for ability in _abilities(item):
            findings.reasons.setdefault(ability, reason)
        return False
    finally:
        if places:
            Cgroup(name, places, tree=tree).destroy()
        with suppress(OSError):  # other jubakos have groups there
            tree.remove(f"{item.base}/{PARENT}")
    return True


def _trial_names() -> Iterator[str]:
    return (f"probe-{os.getpid()}-{number}" for number in itertools.count())


def _abilities(item: Hierarchy) -> list[Ability]:
    return [ability for ability, names in CONTROLLER.items() if names[item.version - 1] in item.controllers]


def _try_ability(ability: Ability, places: Mapping[str, Place], numbers: Sequence[str], findings: _Findings) -> None:
    try:
        results = apply(places, only(_TRIAL, _NEEDS.get(ability, {ability})), numbers)
    except FileNotFoundError as error:
        name = str(error.filename).rpartition("/")[2]
        text = f"the kernel has no {name}"
        remedy = "boot with swapaccount=1" if ability is Ability.SWAP else "use a kernel with this controller"
        findings.reasons.setdefault(ability, Reason("cgroup-file-missing", text, remedy))
        return
    for result in results:
        if result.ability is not ability or result.mechanism is None:
            continue
        if result.error:
            findings.reasons.setdefault(ability, Reason("cgroup-limit-refused", result.error, ""))
        else:
            findings.how[ability] = result.mechanism
            findings.reasons.pop(ability, None)


def _worth_it(usable: list[Hierarchy]) -> list[Hierarchy]:
    """Drop a v2 hierarchy that could only freeze and kill where the v1 freezer can too.

    Moving a process into a v2 group waits for a grace period of the whole kernel (some 10 ms);
    joining v1 groups is free, see ``Cgroup.launcher``.
    """
    if not any("freezer" in item.controllers for item in usable if item.version == 1):
        return usable
    return [item for item in usable if item.controllers != _NOTHING]


def _whole_group(usable: Sequence[Hierarchy], findings: _Findings) -> None:
    """Note what can freeze and kill a group as a whole."""
    if any(item.version == 2 for item in usable):
        findings.how[Ability.FREEZE] = findings.how[Ability.KILL] = Mechanism.V2
        return
    if any("freezer" in item.controllers for item in usable):
        findings.how[Ability.FREEZE] = Mechanism.V1
    if usable:
        findings.how[Ability.KILL] = Mechanism.V1


def _missing(ability: Ability, found: Sequence[Mount]) -> Reason:
    """Say why nothing meets ``ability``: not mounted, not handed down, or not ours to write."""
    if not found:
        return Reason("cgroup-not-mounted", "no cgroup hierarchy is mounted", "mount one at /sys/fs/cgroup")
    if ability not in CONTROLLER:
        return _NO_ROOM
    first, second = CONTROLLER[ability]
    for mount in found:
        if mount.version == 1 and first in mount.controllers:
            return _NO_ROOM
        if mount.version == 2:
            with suppress(OSError):
                if second in read(f"{mount.point}/cgroup.controllers").split():
                    return _NO_ROOM
    return Reason("cgroup-no-controller", f"no {second} controller is mounted or handed down here", _NO_ROOM.remedy)


def _ask_systemd(found: Sequence[Mount], environ: Mapping[str, str], findings: _Findings) -> None:
    abilities, refusal = systemd_abilities(found, environ)
    for ability in Ability:
        if ability in findings.how:
            continue
        if ability in abilities:
            findings.how[ability] = Mechanism.SYSTEMD
            findings.reasons.pop(ability, None)
        elif refusal is not None and findings.reasons[ability].code == _NO_ROOM.code:
            reason = findings.reasons[ability]
            findings.reasons[ability] = Reason(reason.code, f"{reason.text}; {refusal.text}", refusal.remedy)
