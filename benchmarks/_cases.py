"""What is measured: jubako's work beside the same work done by others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from _measure import Case, Contestant, timed
from _processes import children, proportional_mib
from _rivals import run_checked
from jubako import AsyncSandbox, Policy, Runtime, Sandbox
from jubako.sinks import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import ExitStack

    from _rivals import Rivals

__all__ = ["KEYS", "Bench", "build", "private_state"]

KEYS: Final = ("fresh", "exec", "many", "cli", "output", "files", "memory", "import", "ledger")
"""The names of the cases, in the order of the table."""

_BOUNDARY: Final = "process"
"""What these cases measure; those of ``_boundaries`` measure all."""

_CODE: Final = "print(6 * 7)"
_ANSWER: Final = b"42\n"
_MANY: Final = 50
_OUTPUT: Final = 100_000_000
_FILE: Final = 32 * 1024 * 1024
_EVENTS: Final = 1000
_WIDE: Final = Policy.model_validate(
    {"schema_version": 1, "output": {"max_bytes": 2 * _OUTPUT}, "files": {"workspace_size": 4 * _FILE}}
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What cases are built from. What they hold open is closed with ``stack``."""

    rivals: Rivals
    stack: ExitStack
    scratch: Path

    def sandbox(self, policy: Policy | None = None) -> Sandbox:
        """Return a sandbox that lives as long as the bench."""
        return self.stack.enter_context(Sandbox(boundary=_BOUNDARY, policy=policy))


def build(key: str, bench: Bench) -> list[Case]:
    """Return the cases under one key."""
    builders: dict[str, Callable[[], list[Case]]] = {
        "fresh": lambda: [_fresh(bench.rivals)],
        "exec": lambda: [_exec(bench.rivals, bench.sandbox())],
        "many": lambda: [_many(bench.rivals)],
        "cli": lambda: _command_line(bench.rivals),
        "output": lambda: [_output(bench.rivals, bench.sandbox(_WIDE))],
        "files": lambda: _files(bench.rivals, bench.sandbox(_WIDE)),
        "memory": lambda: [_memory(bench.rivals)],
        "import": lambda: [_imports()],
        "ledger": lambda: [_ledger(bench.stack.enter_context(Ledger(bench.scratch / "ledger.jsonl")))],
    }
    return builders[key]()


# A fresh sandbox.


def _fresh(rivals: Rivals) -> Case:
    python = [rivals.python, "-c", _CODE]
    contestants = [
        Contestant("jubako: first result", _first_result),
        Contestant("jubako: until nothing is left", partial(timed, _whole_life)),
    ]
    if rivals.as_user:
        contestants.append(_program("setpriv + raw bwrap", rivals.raw_as_user(python)))
    contestants.append(_program("raw bwrap", rivals.raw(python)))
    contestants.append(_program("raw bwrap, plain /proc", rivals.raw_plain(python)))
    if rivals.kern:
        kern = rivals.kern
        contestants.append(
            Contestant("kern box", lambda: timed(lambda: run_checked(kern(python), _ANSWER, _environment())))
        )
    if rivals.srt:
        contestants.append(_program("srt", rivals.srt_command(python), home=True))
    return Case(
        "fresh",
        "first Python result in a fresh sandbox",
        tuple(contestants),
        baseline="raw bwrap",
        subject="jubako: first result",
        target=2.0,
        warmups=2,
    )


def _first_result() -> float:
    start = time.perf_counter()
    with Sandbox(boundary=_BOUNDARY) as box:
        result = box.run(_CODE)
        elapsed = (time.perf_counter() - start) * 1000
    _expect(result.stdout_bytes, _ANSWER)
    return elapsed


def _whole_life() -> None:
    with Sandbox(boundary=_BOUNDARY) as box:
        result = box.run(_CODE)
    _expect(result.stdout_bytes, _ANSWER)


def _exec(rivals: Rivals, box: Sandbox) -> Case:
    """Return the case of a further program in a sandbox that is there already."""
    argv = ["python3", "-c", _CODE]
    return Case(
        "exec",
        "further Python start in a live sandbox",
        (
            Contestant("jubako: run()", lambda: timed(lambda: _expect(box.run(_CODE).stdout_bytes, _ANSWER))),
            Contestant("jubako: exec()", lambda: timed(lambda: _expect(box.exec(argv).result().stdout_bytes, _ANSWER))),
            _program("host python3", [rivals.python, "-c", _CODE]),
            _program("raw bwrap", rivals.raw([rivals.python, "-c", _CODE])),
        ),
        baseline="host python3",
        subject="jubako: run()",
        target=1.3,
        warmups=3,
    )


# Many at once.


def _many(rivals: Rivals) -> Case:
    raw = [rivals.raw([rivals.python, "-c", f"print({number} ** 2)"]) for number in range(_MANY)]
    return Case(
        "many",
        f"{_MANY} sandboxes at once, every result right, none lost",
        (
            Contestant("jubako", lambda: timed(lambda: anyio.run(_many_sandboxes))),
            Contestant("raw bwrap", lambda: timed(lambda: anyio.run(_many_programs, raw))),
        ),
        baseline="raw bwrap",
        subject="jubako",
        amount=_MANY,
        amount_unit="sandboxes",
        rounds=0.2,
    )


async def _many_sandboxes() -> None:
    right: list[int] = []

    async def one(runtime: Runtime, number: int) -> None:
        async with AsyncSandbox(boundary=_BOUNDARY, runtime=runtime) as box:
            result = await box.run(f"print({number} ** 2)")
        _expect(result.stdout_bytes, f"{number**2}\n".encode())
        right.append(number)

    async with Runtime() as runtime, anyio.create_task_group() as tasks:
        for number in range(_MANY):
            tasks.start_soon(one, runtime, number)
    _expect(str(len(right)).encode(), str(_MANY).encode())


async def _many_programs(commands: Sequence[Sequence[str]]) -> None:
    async def one(number: int, argv: Sequence[str]) -> None:
        done = await anyio.run_process(argv)
        _expect(done.stdout, f"{number**2}\n".encode())

    async with anyio.create_task_group() as tasks:
        for number, argv in enumerate(commands):
            tasks.start_soon(one, number, argv)


# The command line.


def _command_line(rivals: Rivals) -> list[Case]:
    jubako = str(Path(sys.executable).with_name("jubako"))
    home = _environment()
    version = subprocess.run([jubako, "--version"], capture_output=True, check=True, env=home).stdout
    return [
        Case(
            "cli",
            "jubako --version",
            (
                _program("jubako --version", [jubako, "--version"], expected=version, home=True),
                _program("python3 -c pass (same interpreter)", [sys.executable, "-c", "pass"], expected=b"", home=True),
            ),
            baseline="python3 -c pass (same interpreter)",
            subject="jubako --version",
            target=3.0,
        ),
        Case(
            "cli",
            "jubako run -c",
            (
                _program("jubako run -c", [jubako, "run", "--boundary", _BOUNDARY, "-c", _CODE], home=True),
                _program("raw bwrap", rivals.raw([rivals.python, "-c", _CODE])),
            ),
            baseline="raw bwrap",
            rounds=0.5,
        ),
    ]


# Bytes.


def _output(rivals: Rivals, box: Sandbox) -> Case:
    """Return the case of a program that writes a lot, all of it read."""
    argv = ["head", "-c", str(_OUTPUT), "/dev/zero"]

    def drained() -> None:
        process = box.exec(argv)
        total = 0
        while piece := process.stdout.receive():
            total += len(piece)
        _expect(f"{total} {process.wait().code}".encode(), f"{_OUTPUT} 0".encode())

    return Case(
        "output",
        "100 MB of output",
        (
            Contestant("jubako", lambda: timed(drained)),
            Contestant("raw bwrap", lambda: timed(lambda: _drain(rivals.raw(argv), _OUTPUT))),
        ),
        baseline="raw bwrap",
        amount=_OUTPUT / 1e6,
        amount_unit="MB",
        rounds=0.2,
    )


def _drain(argv: Sequence[str], size: int) -> None:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stdout is not None
        total = 0
        while piece := process.stdout.read(65536):
            total += len(piece)
    _expect(str(total).encode(), str(size).encode())


def _files(rivals: Rivals, box: Sandbox) -> list[Case]:
    content = os.urandom(_FILE)
    box.files.write("read.bin", content)
    into = rivals.raw(["/bin/sh", "-c", "cat > /workspace/file && wc -c < /workspace/file"])
    out = rivals.raw(["head", "-c", str(_FILE), "/dev/zero"])

    def read() -> None:
        if box.files.read("read.bin") != content:
            raise RuntimeError("a file came back changed")

    def pipe() -> None:
        done = subprocess.run(into, input=content, capture_output=True, check=True)
        _expect(done.stdout.strip(), str(_FILE).encode())

    return [
        Case(
            "files",
            f"files API: {what} 32 MiB",
            (Contestant(f"jubako: files.{what}", partial(timed, work)), Contestant(f"pipe through {name}", rival)),
            baseline=f"pipe through {name}",
            amount=_FILE / 1e6,
            amount_unit="MB",
            rounds=0.3,
        )
        for what, work, name, rival in (
            ("write", lambda: box.files.write("write.bin", content), "raw bwrap cat", lambda: timed(pipe)),
            ("read", read, "raw bwrap head", lambda: timed(lambda: _drain(out, _FILE))),
        )
    ]


# What it costs to have it.


def _memory(rivals: Rivals) -> Case:
    return Case(
        "memory",
        "memory of an idle sandbox (PSS of all its processes)",
        (Contestant("jubako", _idle_sandbox), Contestant("raw bwrap + sleep", lambda: _idle_program(rivals))),
        unit="MiB",
        baseline="raw bwrap + sleep",
        rounds=0.2,
    )


def _idle_sandbox() -> float:
    before = children()
    with Sandbox(boundary=_BOUNDARY) as box:
        _expect(box.exec(["echo", "up"]).result().stdout_bytes, b"up\n")
        return proportional_mib(children() - before)


def _idle_program(rivals: Rivals) -> float:
    argv = rivals.raw(["/bin/sh", "-c", "echo up; sleep 600; :"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            _expect(process.stdout.readline(), b"up\n")
            return proportional_mib({process.pid})
        finally:
            process.kill()


def _imports() -> Case:
    def start(code: str) -> Contestant:
        return _program(f"python3 -c {code!r}", [sys.executable, "-c", code], expected=b"", home=True)

    nothing, package, sandbox = start("pass"), start("import jubako"), start("from jubako import Sandbox")
    return Case("import", "imports", (package, sandbox, nothing), baseline=nothing.name)


def _ledger(ledger: Ledger) -> Case:
    numbers = count()

    def append() -> None:
        for _ in range(_EVENTS):
            ledger.append({"type": "benchmark.appended", "number": next(numbers), "text": "x" * 200})

    return Case(
        "ledger",
        "hash-chained ledger: 1000 events appended",
        (Contestant("jubako", partial(timed, append)),),
        amount=_EVENTS,
        amount_unit="events",
        rounds=0.3,
    )


def _program(name: str, argv: Sequence[str], *, expected: bytes = _ANSWER, home: bool = False) -> Contestant:
    """Return the contestant that starts a program and checks what it prints; with our environment if ``home``."""
    env = _environment() if home else None
    return Contestant(name, lambda: timed(lambda: run_checked(argv, expected, env)))


def _environment() -> dict[str, str]:
    return dict(os.environ)


def _expect(got: bytes, wanted: bytes) -> None:
    if got != wanted:
        msg = f"expected {wanted[:80]!r}, got {got[:80]!r}"
        raise RuntimeError(msg)


@contextmanager
def private_state(directory: Path) -> Iterator[None]:
    """Keep jubako's records of this run out of the user's own."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(directory)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_STATE_HOME"]
        else:
            os.environ["XDG_STATE_HOME"] = before
