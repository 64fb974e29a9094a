"""Run a hostile program outside, safely: bounded in time and output, ended with all its children."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Command", "Saw", "end_outside", "run_outside", "start_outside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line with everything that the new process gets.

    ``identity`` is the host user to run as, for callers who are root; ``leaky`` passes on every
    inheritable descriptor.
    """

    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    identity: int | None = None
    leaky: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Saw:
    """What a run showed from outside. ``code`` is negative for a signal."""

    stdout: bytes
    stderr: bytes = b""
    code: int | None = None
    timed_out: bool = False
    truncated: bool = False
    limits: frozenset[str] = frozenset()
    message: str = ""


async def run_outside(command: Command, *, seconds: float, limit: int = 65536) -> Saw:
    """Return what the command wrote (stdout and stderr mixed) and how it ended; at the end its session is killed."""
    child = start_outside(command)
    pieces: list[bytes] = []
    size, timed_out = 0, False
    assert child.stdout is not None  # noqa: S101  # a pipe was asked for
    reader = child.stdout.fileno()
    try:
        with anyio.move_on_after(seconds) as scope:
            while size <= limit:
                await anyio.wait_readable(reader)
                piece = os.read(reader, 65536)
                if not piece:
                    break
                pieces.append(piece)
                size += len(piece)
        timed_out = scope.cancelled_caught
    finally:
        code = await end_outside(child, kill=timed_out or size > limit)
    return Saw(stdout=b"".join(pieces)[:limit], code=code, timed_out=timed_out, truncated=size > limit)


def start_outside(command: Command) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own."""
    as_other = command.identity is not None
    return subprocess.Popen(
        command.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=command.cwd,
        env=dict(command.env),
        bufsize=0,
        start_new_session=True,
        close_fds=not command.leaky,
        user=command.identity if as_other else None,
        group=command.identity if as_other else None,
        extra_groups=[] if as_other else None,
    )


async def end_outside(child: subprocess.Popen[bytes], *, kill: bool = True) -> int:
    """Wait for the process, kill what is left of its session, and return its exit code."""
    descriptor = os.pidfd_open(child.pid)
    try:
        with anyio.CancelScope(shield=True):
            if not kill:
                with anyio.move_on_after(2):
                    await anyio.wait_readable(descriptor)
            # Before it is reaped: until then nobody else can get its number.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    return child.returncode
