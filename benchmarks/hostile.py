"""Run one hostile program in a sandbox and show what stopped each of its attempts.

Lays real bait on the host first (a secret file, a secret variable, an open descriptor, listening
sockets, a running process) and checks that the bait can be taken from outside, so that "contained"
means something. ``attacker.py`` is the program.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from _show import printable, progress, table
from jubako import JubakoError, Policy, Sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIB: Final = 1024 * 1024
_MEMORY: Final = 192 * _MIB
_DISK: Final = 16 * _MIB
_PROCESSES: Final = 48
_FILES: Final = 256
_OUTPUT: Final = _MIB
_VARIABLE: Final = "HOSTILE_BAIT_API_KEY"
_LEAST: Final = 20
_POLICY: Final = {
    "schema_version": 1,
    "files": {"workspace_size": _DISK, "tmp_size": _DISK},
    "resources": {"memory": _MEMORY, "processes": _PROCESSES, "open_files": _FILES},
    "output": {"max_bytes": _OUTPUT},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One attempt: the control that should stop it, what it met, and what it gained (nothing, if contained)."""

    attempt: str
    control: str
    met: str
    gained: str = ""

    @property
    def verdict(self) -> str:
        """Contained or ESCAPED."""
        return "ESCAPED" if self.gained else "contained"


class Bait:
    """What lies outside for the taking while the hostile program runs."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self.secret = secrets.token_hex(16)
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._closing:
            directory = Path(tempfile.mkdtemp(prefix="hostile-bait-"))
            self._closing.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.chmod(0o755)
            self.file = directory / f"secret-{self.token}"
            self.file.write_text(self.secret, encoding="utf-8")
            self.file.chmod(0o644)
            self.descriptor = os.open(self.file, os.O_RDONLY)
            inheritable = True
            self._closing.callback(os.close, self.descriptor)
            os.set_inheritable(self.descriptor, inheritable)
            os.environ[_VARIABLE] = self.secret
            self._closing.callback(os.environ.pop, _VARIABLE, None)
            self.listener = self._closing.enter_context(socket.create_server(("127.0.0.1", 0)))
            self.abstract = self._closing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self.abstract.bind(f"\0hostile-bait-{self.token}")
            self.abstract.listen()
            self.victim = subprocess.Popen([f"hostile-bait-{self.token}", "600"], executable=shutil.which("sleep"))
            self._closing.callback(self.victim.wait)
            self._closing.callback(self.victim.kill)
            self._closing = self._closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def prove(self) -> None:
        """Take the bait from outside. Raises OSError or RuntimeError where it can't be taken."""
        secret = self.secret.encode()
        environment = Path(f"/proc/{self.victim.pid}/environ").read_bytes()
        if not (secret in environment and os.pread(self.descriptor, 64, 0) == self.file.read_bytes() == secret):
            raise RuntimeError("the bait can't be taken from outside, so the run would prove nothing")
        for family, address in (
            (socket.AF_INET, self.listener.getsockname()),
            (socket.AF_UNIX, self.abstract.getsockname()),
        ):
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.settimeout(3)
                client.connect(address)
        for server in (self.listener, self.abstract):
            server.accept()[0].close()
            server.settimeout(0)

    def for_inside(self, sandbox: str) -> bytes:
        """Return what the hostile program is told: where everything is, and only hashes of the secrets."""
        digest = hashlib.sha256(self.secret.encode()).hexdigest()
        told = {
            "sandbox": sandbox,
            "token": self.token,
            "file": str(self.file),
            "file_hash": digest,
            "variable_hash": digest,
            "port": self.listener.getsockname()[1],
            "abstract": f"hostile-bait-{self.token}",
            "victim": self.victim.pid,
            "victim_name": f"hostile-bait-{self.token}",
            "survivor": self.survivor,
            "memory": _MEMORY,
            "disk": _DISK,
            "processes": _PROCESSES,
            "files": _FILES,
            "output": _OUTPUT,
        }
        return json.dumps(told).encode()

    @property
    def survivor(self) -> str:
        """The name of the process that tries to outlive its sandbox."""
        return f"hostile-survivor-{self.token}"

    def taken(self) -> list[Finding]:
        """Say from outside what happened to the bait."""
        harmed = "" if self.victim.poll() is None else "the bait process was ended"
        changed = "" if self.file.read_bytes() == self.secret.encode() else "the secret file was changed"
        return [
            Finding("harm a host process or file", "process.isolation", "bait is as it was", harmed or changed),
            Finding("call a host service", "net.default-deny", "nobody called", _callers(self.listener, self.abstract)),
        ]


def _callers(*servers: socket.socket) -> str:
    for server in servers:
        with contextlib.suppress(BlockingIOError):
            server.accept()[0].close()
            return f"a call came in on {server.getsockname()!r}"
    return ""


def attack(bait: Bait, boundary: str) -> list[Finding]:
    """Run the hostile program once, then look from outside at what it did."""
    source = Path(__file__).with_name("attacker.py").read_bytes()
    with Sandbox(boundary=boundary, policy=Policy.model_validate(_POLICY)) as box:
        box.files.write("attacker.py", source)
        box.files.write("bait.json", bait.for_inside(box.id))
        result = box.exec(["python3", "attacker.py", "bait.json"], timeout=120).result()
        findings = read_report(box.files.read("report", limit=_MIB) if box.files.exists("report") else b"")
        if result.exit_code != 0:
            said = result.stderr.strip().splitlines()
            msg = f"the hostile program did not finish: {said[-1] if said else result.shell_status}"
            raise RuntimeError(msg)
        findings += [_flood(len(result.stdout_bytes), truncated=result.truncated), _loot(box, bait), _endless(box)]
    return [*findings, _survivors(bait), *bait.taken()]


def read_report(report: bytes) -> list[Finding]:
    """Return the findings that the hostile program wrote down, as text that is safe to show."""
    findings = []
    for line in report.splitlines():
        said = {key: printable(str(value))[:100] for key, value in json.loads(line).items()}
        findings.append(Finding(said["name"], said["control"], said["stopped"], said["gained"]))
    return findings


def _flood(kept: int, *, truncated: bool) -> Finding:
    over = "" if truncated and kept <= _OUTPUT else f"{kept} bytes of output came out"
    return Finding("flood the output", "resource.output", f"cut at {kept // 1024} KiB", over)


def _loot(box: Sandbox, bait: Bait) -> Finding:
    """Ask the sandbox for the link that the program left: host code must not follow it outside."""
    try:
        content = box.files.read("loot", limit=_MIB)
    except JubakoError as error:
        return Finding("have the host follow a link", "fs.workspace", error.code)
    gained = "the secret came out" if bait.secret.encode() in content else ""
    return Finding("have the host follow a link", "fs.workspace", "read inside", gained)


def _endless(box: Sandbox) -> Finding:
    code = "import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass"
    result = box.run(code, timeout=1)
    return Finding(
        "loop for ever, deaf to signals",
        "time.exec",
        f"killed after {result.duration.total_seconds():.1f} s",
        "" if result.timed_out else "it was not stopped",
    )


def _survivors(bait: Bait) -> Finding:
    """Look for the process that meant to outlive the sandbox, which is destroyed by now."""
    alive = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if bait.survivor.encode() in place.read_bytes():
                alive.append(place.parent.name)
    return Finding("outlive the sandbox", "process.kill-tree", "no process left", ", ".join(alive))


def show(findings: Sequence[Finding]) -> None:
    """Print the table and one line that sums it up."""
    columns = (("attempt", "left"), ("control", "left"), ("met", "left"), ("verdict", "left"))
    rows = [(item.attempt, item.control, item.gained or item.met, item.verdict) for item in findings]
    table("One hostile program in a sandbox", columns, rows)
    contained = sum(not item.gained for item in findings)
    print(f"\n{contained} of {len(findings)} attempts contained, {len(findings) - contained} escaped")


def main() -> int:
    """Run the hostile program; return 1 when an attempt succeeded or the run says nothing."""
    parser = argparse.ArgumentParser(description="One hostile program in a sandbox: what stopped each attempt.")
    parser.add_argument("--boundary", default="process", help="kind of wall (default: process)")
    parser.add_argument("--json", action="store_true", help="findings as JSON on stdout instead of the table")
    options = parser.parse_args()
    try:
        with Bait() as bait, progress("Hostile program", 2) as step:
            bait.prove()
            step("bait laid, and taken once from outside")
            findings = attack(bait, options.boundary)
            step("done")
    except (JubakoError, OSError, RuntimeError) as error:
        print(f"hostile: {printable(str(error))}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([{**_fields(item), "verdict": item.verdict} for item in findings]))
    else:
        show(findings)
    if len(findings) < _LEAST:
        print(f"hostile: only {len(findings)} attempts were reported", file=sys.stderr)
        return 1
    return 1 if any(item.gained for item in findings) else 0


def _fields(item: Finding) -> dict[str, str]:
    return {"attempt": item.attempt, "control": item.control, "met": item.met, "gained": item.gained}


if __name__ == "__main__":
    sys.exit(main())
