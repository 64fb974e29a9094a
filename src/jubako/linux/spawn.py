"""Starting a helper process and awaiting it by pidfd, on any anyio backend, without threads."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import anyio

from jubako.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["STDERR_CAP", "Child", "spawn"]

STDERR_CAP: Final = 64 * 1024
"""Bytes of a child's stderr that are kept; the rest is read and dropped."""

_CHUNK: Final = 16 * 1024


class Child:
    """A running helper process; ``async with`` or ``aclose`` ends and reaps it, also under cancellation."""

    def __init__(self, process: subprocess.Popen[bytes], pidfd: int, stderr: int | None) -> None:
        self._process = process
        self._pidfd: int | None = pidfd
        self._stderr = stderr
        self._kept = bytearray()
        self._lock = anyio.Lock()
        self._stderr_ended = False

    @property
    def pid(self) -> int:
        """The process id; it stays reserved until the process was awaited."""
        return self._process.pid

    @property
    def pidfd(self) -> int | None:
        """A descriptor that names the process for good; None after it was awaited."""
        return self._pidfd

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal number, or None while it was not seen to have ended."""
        return self._process.returncode

    def poll(self) -> int | None:
        """Return the exit code if the process has ended, reaping it, or None. Never waits."""
        if self._process.poll() is not None and not self._lock.locked():
            self._close_pidfd()
        return self._process.returncode

    async def wait(self) -> int:
        """Return the exit code (minus the signal number) once the process ended; any number of tasks may wait."""
        async with self._lock:
            while (code := self._process.poll()) is None:
                if self._pidfd is not None:  # always so while it runs
                    await anyio.wait_readable(self._pidfd)
            self._close_pidfd()
            return code

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def kill(self) -> None:
        """Send SIGKILL; no error when it is gone."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal; no error when it is gone."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def pump_stderr(self) -> None:
        """Read stderr to its end, keeping the first ``STDERR_CAP`` bytes; run it beside a long-lived child.

        Without it a child that says more than a pipe holds (64 KiB) stops until somebody reads.
        """
        while self._stderr is not None and not self._stderr_ended:
            if not self._read_some():
                try:
                    await anyio.wait_readable(self._stderr)
                except anyio.ClosedResourceError:
                    return

    def stderr_text(self) -> str:
        """Return what the child said on stderr so far, control characters made visible. Never waits."""
        while self._read_some():
            pass
        text = self._kept.decode("utf-8", "replace")
        return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text).strip()

    async def diagnostics(self, patience: float = 1.0) -> str:
        """Return what the child said on stderr, after giving it ``patience`` seconds to end; its status if nothing."""
        with anyio.move_on_after(patience):
            await self.wait()
        return self.stderr_text() or f"no message, exit status {self.returncode}"

    def _read_some(self) -> bool:
        """Read once; return False when there is nothing just now or ever again."""
        if self._stderr is None or self._stderr_ended:
            return False
        try:
            data = os.read(self._stderr, _CHUNK)
        except BlockingIOError:
            return False
        self._kept += data[: max(STDERR_CAP - len(self._kept), 0)]
        self._stderr_ended = not data
        return bool(data)

    async def aclose(self) -> None:
        """End the process, await it, close all descriptors; idempotent, and not to be cancelled."""
        self.kill()
        with anyio.CancelScope(shield=True):
            await self.wait()
        self.stderr_text()
        if self._stderr is not None:
            anyio.notify_closing(self._stderr)
            os.close(self._stderr)
            self._stderr = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def spawn(
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> Child:
    """Start a program in a session of its own; stdin is empty, stderr is collected (see ``Child``).

    ``pass_fds`` stay open under their numbers, all others are closed. ``env`` replaces the environment
    (None: an empty one). With ``stdout=subprocess.STDOUT`` both outputs are collected, through a pipe
    that the program may open again after it left root. Call it from the event loop's thread: a process
    that asked for a signal at its parent's death gets it when the thread that started it ends.

    Raises:
        LaunchError: The program can't be started.
    """  # control: process.descriptors, process.environment
    stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(stderr_read, False)
        if stdout == subprocess.STDOUT:
            os.fchmod(stderr_write, 0o622)
            stdout = stderr_write
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr_write,
            pass_fds=pass_fds,
            env=dict(env or {}),
            cwd=cwd,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        os.close(stderr_read)
        msg = f"{argv[0]} can't be started: {error}"
        raise LaunchError(msg, details={"program": argv[0]}) from error
    finally:
        os.close(stderr_write)
    try:
        return Child(process, os.pidfd_open(process.pid), stderr_read)
    except BaseException:
        process.kill()
        process.wait()
        os.close(stderr_read)
        raise
