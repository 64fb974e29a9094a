"""What this machine can do for gVisor: the jail around it, the binary, a platform that passes the self-test."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from jubako.boundary.contract import Fact, Feature, ProbeReport, Reason
from jubako.drivers.runsc._selftest import LIMITS, SelfTest, self_test
from jubako.drivers.runsc._verdicts import Verdicts, binary_digest
from jubako.jail.bubblewrap import Machine, probe_machine

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SNAPSHOT_REMEDY", "RunscMachine", "probe_runsc"]

_VERSION: Final = 2
"""Counts up with the self-test, so that old verdicts are not used."""
_VARIABLE: Final = "JUBAKO_RUNSC"
_INSTALL: Final = "apt-get install runsc (Debian 12), or put an upstream release of runsc into PATH"
_CRASHES: Final = (
    "use an upstream release of runsc, or Debian 12's: Debian 13's build crashes while files are read; "
    f"{_VARIABLE} names another binary"
)
_PLATFORMS: Final = ("systrap", "ptrace")
"""Tried in this order. Not ``kvm``: it needs /dev/kvm in the jail, and where that is emulated it hangs."""
_NEWER: Final = "use an upstream release of runsc from 2023 or later"
SNAPSHOT_REMEDY: Final = "run as root, with util-linux installed (nsenter)"
_GAPS: Final = {
    "list": Reason("runsc-no-automount", "this gVisor doesn't know a flag that `ls` and `stat` set: they fail", _NEWER),
    "terminal": Reason("runsc-no-dev-tty", "this gVisor can't open /dev/tty: prompts for passwords fail", _NEWER),
}
"""What works less well in old releases; nothing of it is a control."""
_FLAG: Final = re.compile(r"^\s+-+([a-zA-Z0-9_-]+)", re.MULTILINE)
_SECONDS: Final = 10


@dataclass(slots=True)
class RunscMachine(Machine):
    """The machine as the jail sees it, and gVisor on it."""

    runsc: str = ""
    platform: str = ""
    flags: frozenset[str] = field(default_factory=frozenset[str])
    digest: str = ""
    """SHA-256, in hex, of the binary."""
    nsenter: str = ""
    """The program that enters a sandbox's namespaces; snapshots take one."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    version: str
    flags: tuple[str, ...]
    platform: str
    problems: tuple[str, ...]
    held: dict[str, bool]


def probe_runsc(verdicts: Verdicts | None = None, test: Callable[..., SelfTest] = self_test) -> RunscMachine:
    """Return what this machine offers. Blocking: milliseconds, or seconds the first time; never raises."""
    jail = probe_machine()
    machine = RunscMachine(**{item.name: getattr(jail, item.name) for item in fields(Machine)})
    facts: dict[str, Fact] = dict(jail.report.facts)
    reasons = [item for item in jail.report.reasons if not item.code.startswith("landlock")]
    found = os.environ.get(_VARIABLE) or shutil.which("runsc")
    binary = shutil.which(found) if found else None
    verdict: _Verdict | None = None
    if binary is None:
        where = f"{_VARIABLE}={found} is no program" if found else "runsc is not installed"
        reasons.append(Reason("runsc-missing", f"gVisor: {where}", _INSTALL))
    elif jail.report.available:
        machine.runsc = os.path.realpath(binary)
        verdict = _judge(machine, verdicts or Verdicts(), test)
        reasons.extend(_complaints(verdict))
    if verdict is not None and verdict.platform:
        machine.platform = verdict.platform
        machine.flags = frozenset(verdict.flags)
        facts["runsc.version"] = verdict.version
        facts["runsc.platform"] = verdict.platform
        facts["runsc.trace"] = "pod-init-config" in verdict.flags
        facts.update({f"runsc.limit.{name}": bool(verdict.held.get(name)) for name in LIMITS})
        reasons.extend(reason for name, reason in _GAPS.items() if not verdict.held.get(name))
    usable = bool(machine.platform)
    features = (jail.report.features | {Feature.PROCESSES}) if usable else frozenset[Feature]()
    if usable:
        machine.nsenter = shutil.which("nsenter") or ""
        if machine.drop and machine.nsenter:
            features |= {Feature.SNAPSHOT, Feature.FORK}
        else:
            text = "gVisor restores sandboxes only for root, who can give them two host users"
            reasons.append(Reason("runsc-no-snapshots", text, SNAPSHOT_REMEDY))
    version = verdict.version if verdict is not None else None
    machine.report = ProbeReport(usable, version, features, tuple(reasons), facts)
    return machine


def _judge(machine: RunscMachine, verdicts: Verdicts, test: Callable[..., SelfTest]) -> _Verdict:
    """Return the verdict on the binary, from the cache if it was tested on this kernel and by this user before."""
    try:
        digest = binary_digest(machine.runsc, verdicts)
    except OSError as error:
        return _Verdict("", (), "", (f"{machine.runsc} can't be read: {error.strerror}",), {})
    machine.digest = digest
    key = ("verdict", _VERSION, digest, platform.release(), os.geteuid(), machine.bwrap, machine.python)
    known = verdicts.get(*key)
    if known is not None:
        return _Verdict(
            str(known["version"]),
            tuple(known["flags"]),
            str(known["platform"]),
            tuple(known["problems"]),
            known["held"],
        )
    verdict = _test(machine, test)
    verdicts.put({item.name: getattr(verdict, item.name) for item in fields(verdict)}, *key)
    return verdict


def _test(machine: RunscMachine, test: Callable[..., SelfTest]) -> _Verdict:
    said = _output([machine.runsc, "--version"]).split()
    version = said[2] if said[:2] == ["runsc", "version"] and len(said) > 2 else ""
    if not version:
        return _Verdict("", (), "", (f"{machine.runsc} does not say its version",), {})
    text = _output([machine.runsc, "flags"])
    flags = tuple(sorted(set(_FLAG.findall(text))))
    offered = next((line for line in text.splitlines() if "platform to use" in line), "")
    problems: list[str] = []
    for name in _PLATFORMS:
        if name not in offered:
            continue
        result = test(machine.runsc, flags, name, machine)
        if not result.problem:
            return _Verdict(version, flags, name, tuple(problems), result.held)
        problems.append(f"platform {name} can't be used: {result.problem}")
    return _Verdict(version, flags, "", tuple(problems) or ("it offers no platform known here",), {})


def _complaints(verdict: _Verdict) -> list[Reason]:
    """Return what is wrong; with a platform that works, the others' trouble is only worth a word."""
    code = "runsc-platform-unusable" if verdict.platform else "runsc-unusable"
    label = f"gVisor {verdict.version}".rstrip()
    return [Reason(code, f"{label}: {text}", _CRASHES) for text in verdict.problems]


def _output(argv: list[str]) -> str:
    """Return what a command says on both outputs; nothing if it can't be run."""
    try:
        done = subprocess.run(
            argv, input=b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
