"""Writing limits and reading them back, for v1 and v2."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from jubako.linux.cgroup._files import read, read_number, write_back
from jubako.linux.cgroup.model import Ability, LimitResult, Mechanism, Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jubako.linux.cgroup.model import Limits

__all__ = ["CONTROLLER", "apply", "check"]

CONTROLLER: Final[Mapping[Ability, tuple[str, str]]] = {
    Ability.MEMORY: ("memory", "memory"),
    Ability.SWAP: ("memory", "memory"),
    Ability.PROCESSES: ("pids", "pids"),
    Ability.CPU: ("cpu", "cpu"),
    Ability.IO: ("blkio", "io"),
}
"""The v1 and the v2 controller behind each limit."""

_PERIOD: Final = 100_000  # microseconds, the kernel's own default
_LEAST_QUOTA: Final = 1_000

_Setting = tuple[str, str, str]  # file, value to write, line that must be read back


def apply(
    places: Mapping[str, Place], limits: Limits, disks: Sequence[str], mechanism: Mechanism | None = None
) -> tuple[LimitResult, ...]:
    """Write every limit for which ``places`` has a controller, and return what the kernel says to each."""
    return tuple(_each(places, limits, disks, mechanism, writing=True))


def check(
    places: Mapping[str, Place], limits: Limits, disks: Sequence[str], mechanism: Mechanism | None = None
) -> tuple[LimitResult, ...]:
    """Read every limit and compare it, without writing."""
    return tuple(_each(places, limits, disks, mechanism, writing=False))


def _each(
    places: Mapping[str, Place],
    limits: Limits,
    disks: Sequence[str],
    mechanism: Mechanism | None,
    *,
    writing: bool,
) -> list[LimitResult]:
    results: list[LimitResult] = []
    for ability, value in limits.wanted().items():
        place = _place(places, ability)
        if place is None:
            results.append(LimitResult(ability, str(value), "", None, "no controller here"))
            continue
        by = mechanism or (Mechanism.V1 if place.version == 1 else Mechanism.V2)
        settings = _settings(ability, value, place, limits, disks)
        results.append(_one(ability, by, place, settings, writing=writing))
    return results


def _place(places: Mapping[str, Place], ability: Ability) -> Place | None:
    for version, controller in enumerate(CONTROLLER[ability], start=1):
        place = places.get(controller)
        if place is not None and place.version == version:
            return place
    return None


def _pages(count: float) -> int:
    size = os.sysconf("SC_PAGE_SIZE")
    return int(count) // size * size


def _settings(ability: Ability, value: float, place: Place, limits: Limits, disks: Sequence[str]) -> list[_Setting]:
    number = str(int(value))
    if ability is Ability.PROCESSES:
        return [("pids.max", number, number)]
    if ability is Ability.CPU:
        return _cpu(place, max(int(value * _PERIOD), _LEAST_QUOTA))
    if ability is Ability.IO:
        return _io(place, number, disks)
    if place.version == 2:
        name = "memory.max" if ability is Ability.MEMORY else "memory.swap.max"
        return [(name, number, str(_pages(value)))]
    if ability is Ability.MEMORY:
        return [("memory.limit_in_bytes", number, str(_pages(value)))]
    both = int(value) + (limits.memory or 0)  # v1 limits the sum
    return [("memory.memsw.limit_in_bytes", str(both), str(_pages(both)))]


def _cpu(place: Place, quota: int) -> list[_Setting]:
    if place.version == 2:
        return [("cpu.max", f"{quota} {_PERIOD}", f"{quota} {_PERIOD}")]
    return [("cpu.cfs_period_us", str(_PERIOD), str(_PERIOD)), ("cpu.cfs_quota_us", str(quota), str(quota))]


def _io(place: Place, number: str, disks: Sequence[str]) -> list[_Setting]:
    if place.version == 2:
        lines = [f"{disk} rbps={number} wbps={number}" for disk in disks]
        return [("io.max", line, line) for line in lines]
    names = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")
    return [(name, f"{disk} {number}", f"{disk} {number}") for name in names for disk in disks]


def _one(ability: Ability, by: Mechanism, place: Place, settings: Sequence[_Setting], *, writing: bool) -> LimitResult:
    wanted: list[str] = []
    seen: list[str] = []
    for name, value, expected in settings:
        path = f"{place.path}/{name}"
        wanted.append(f"{name}={expected}")
        try:
            text = _write(place, path, name, value) if writing else read(path).strip()
        except OSError as error:
            if error.errno == errno.ENOENT and writing:
                raise
            return LimitResult(ability, "; ".join(wanted), "; ".join(seen), by, f"{name}: {error.strerror}")
        seen.append(f"{name}={text}")
        if not _holds(name, text, expected):
            return LimitResult(ability, "; ".join(wanted), "; ".join(seen), by, f"{name} reads back {text!r}")
    if not settings:
        return LimitResult(ability, "", "", None, "no disk found to limit")
    return LimitResult(ability, "; ".join(wanted), "; ".join(seen), by)


def _holds(name: str, text: str, expected: str) -> bool:
    if name.startswith(("blkio.", "io.")):
        return any(line == expected or line.startswith(f"{expected} ") for line in text.splitlines())
    if name == "cpu.cfs_quota_us":
        return text.isdigit() and 0 < int(text) <= int(expected)
    return text == expected


def _write(place: Place, path: str, name: str, value: str) -> str:
    try:
        return write_back(path, value)
    except OSError as error:
        if error.errno != errno.EINVAL or name != "cpu.cfs_quota_us":
            raise
    # v1 refuses a quota above that of a group further up: take that one, which binds anyhow.
    tightest = int(value)
    directory = place.path.rpartition("/")[0]
    while (quota := read_number(f"{directory}/cpu.cfs_quota_us")) is not None:
        period = read_number(f"{directory}/cpu.cfs_period_us") or _PERIOD
        if quota > 0:
            tightest = min(tightest, quota * _PERIOD // period)
        directory = directory.rpartition("/")[0]
    return write_back(path, str(tightest))
