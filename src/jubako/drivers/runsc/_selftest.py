"""Whether a runsc binary really works here: file-heavy runs in real sandboxes, bounded in time.

Some builds of gVisor start, and then crash in one run out of three while files are read. So each
platform has to pass twelve file-heavy runs before it is used; on the way the sandbox tells which
limits its kernel holds, because the plan may claim only those.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from jubako.drivers.runsc._bundle import BUNDLE, NAMESPACES, RUNSC, STATE, container, root_arguments, runsc_arguments
from jubako.drivers.runsc._bundle import tmpfs as tmpfs_mount
from jubako.jail.users import PROBE_UID, drop_prefix
from jubako.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Collection

    from jubako.jail.bubblewrap import Machine

__all__ = ["ABILITIES", "LIMITS", "SelfTest", "self_test"]

LIMITS: Final = ("data", "disk", "inodes", "open-files", "processes")
"""Limits that gVisor's kernel may hold or not hold; each run says."""
ABILITIES: Final = ("list", "terminal")
"""What old releases can't do: the flag that every ``ls`` sets, and /dev/tty."""

_ROUNDS: Final = 3
_EACH: Final = 4
_RUN_SECONDS: Final = 30.0
_ALL_SECONDS: Final = 60.0
_SAID: Final = 400

_PROGRAM: Final = """
import os, sys

def heavy():
    import argparse, asyncio, email, json, logging, unittest
    read = 0
    for base, _, files in os.walk(os.path.dirname(os.__file__)):
        for name in files:
            path = os.path.join(base, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    read += len(file.read(65536)) and 1
            if read >= 120:
                return

def limited(name, value, attempt):
    import resource
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
            attempt()
        except (MemoryError, OSError):
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1] == 0

def forks():
    import signal, time
    made = []
    try:
        while len(made) < 40:
            child = os.fork()
            if child == 0:
                time.sleep(60)
            made.append(child)
    finally:
        for child in made:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

def opens():
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]

def fills():
    try:
        with open("/tmp/full", "wb") as file:
            file.write(bytes(1 << 21))
    except OSError:
        return True
    finally:
        os.unlink("/tmp/full")
    return False

def terminal():
    import pty
    child, master = pty.fork()
    if child == 0:
        code = 1
        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0

sys.stdout.reconfigure(line_buffering=True)
children = []
for _ in range(%d):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            heavy()
            code = 0
        finally:
            os._exit(code)
    children.append(child)
good = [os.waitpid(child, 0)[1] for child in children].count(0)
print("runs", good)
print("data", int(limited("RLIMIT_DATA", 96 << 20, lambda: bytearray(b"x") * (192 << 20))))
print("disk", int(fills()))
print("inodes", int(os.statvfs("/tmp").f_files > 0))
print("open-files", int(limited("RLIMIT_NOFILE", 32, opens)))
print("list", int(os.spawnv(os.P_WAIT, "/bin/ls", ["ls", "-d", "/"]) == 0))
print("terminal", int(terminal()))
print("processes", int(limited("RLIMIT_NPROC", 12, forks)))
"""


@dataclass(slots=True)
class SelfTest:
    """What one platform of one binary does here; ``problem`` is empty when it may be used."""

    problem: str = ""
    held: dict[str, bool] = field(default_factory=dict[str, bool])


def self_test(binary: str, known: Collection[str], platform: str, machine: Machine) -> SelfTest:
    """Return whether ``platform`` can be used. Blocking, some seconds; never raises for what goes wrong."""
    end = time.monotonic() + _ALL_SECONDS
    result = SelfTest()
    for number in range(1, _ROUNDS + 1):
        said, problem = _run(binary, known, platform, machine, timeout=min(_RUN_SECONDS, end - time.monotonic()))
        if not problem and said.get("runs") != _EACH:
            problem = f"{_EACH - said.get('runs', 0)} of {_EACH} programs ended badly"
        if problem:
            result.problem = f"self-test {number} of {_ROUNDS}: {problem}"
            return result
        held = {name: bool(said.get(name)) for name in (*LIMITS, *ABILITIES)}
        result.held = {name: held[name] and result.held.get(name, True) for name in held}
    return result


def _run(
    binary: str, known: Collection[str], platform: str, machine: Machine, *, timeout: float
) -> tuple[dict[str, int], str]:
    """Run the program in one sandbox; return what it said, and what went wrong."""
    facts = machine.report.facts
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        tmpfs_mount("/tmp", 1 << 20, 0o1777),  # noqa: S108  # a path inside
    ]
    program = [machine.python, "-I", "-S", "-B", "-c", _PROGRAM % _EACH]
    config = json.dumps(container(program, cast("list[dict[str, object]]", mounts), cwd="/", hostname="self-test"))
    prefix = drop_prefix(machine.drop[0], PROBE_UID) if machine.drop else ()
    name = f"self-test-{os.getpid()}"
    bundle = os.memfd_create("jubako", os.MFD_CLOEXEC)
    try:
        os.write(bundle, config.encode())
        os.lseek(bundle, 0, os.SEEK_SET)
        argv = [
            *prefix, machine.bwrap, *NAMESPACES, *root_arguments(Policy(), facts), "--ro-bind", binary, RUNSC,
            "--tmpfs", STATE, "--perms", "0444", "--file", str(bundle), f"{BUNDLE}/config.json", "--chdir", "/", "--",
            *runsc_arguments(set(known) - {"panic-log"}, platform), "run", "--bundle", BUNDLE, name,
        ]  # fmt: skip
        return _outcome(argv, bundle, timeout)
    finally:
        os.close(bundle)


def _outcome(argv: list[str], bundle: int, timeout: float) -> tuple[dict[str, int], str]:
    try:
        done = subprocess.run(
            argv, input=b"", capture_output=True, timeout=max(timeout, 0.1), check=False, env={}, pass_fds=(bundle,)
        )
    except subprocess.TimeoutExpired:
        return {}, f"no end within {timeout:.0f} s"
    except OSError as error:
        return {}, str(error)
    text = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0:
        said = text[-_SAID:] or "it said nothing"
        return {}, f"exit status {done.returncode}: {said}"
    lines = (line.split() for line in done.stdout.decode(errors="replace").splitlines()[:20])
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}, ""
