"""What became of a program that was run to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jubako.errors import CommandFailedError, ExecTimeoutError, ExecutionError, OutputLimitError

if TYPE_CHECKING:
    from datetime import timedelta

    from jubako.boundary.contract import ExitStatus, Usage

__all__ = ["RunResult"]

_TAIL: Final = 2000
_TIMED_OUT: Final = 124
_KILLED: Final = 137
_SIGNAL_BASE: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The whole story of one run.

    Attributes:
        stdout_bytes: What it wrote to its output, up to the output limit.
        stderr_bytes: What it wrote to its error output, up to the same limit.
        exit_code: What it exited with; ``None`` when a signal ended it.
        signal: The signal that ended it, or ``None``.
        timed_out: It ran over its time and was killed with all its children.
        truncated: It wrote more than the output limit; the rest is dropped.
        oom: It was killed because the sandbox ran out of memory.
        limit_hits: Ids of the controls that it ran into, sorted.
        usage: What the sandbox had used when it ended, or ``None`` when that can't be told.
        duration: Wall time from the request to the end.
        message: Why it could not be started, where that is so.
    """

    stdout_bytes: bytes
    stderr_bytes: bytes
    exit_code: int | None
    signal: int | None
    duration: timedelta
    timed_out: bool = False
    truncated: bool = False
    oom: bool = False
    limit_hits: tuple[str, ...] = ()
    usage: Usage | None = None
    message: str = ""

    @classmethod
    def of(
        cls, status: ExitStatus, stdout: bytes, stderr: bytes, *, duration: timedelta, usage: Usage | None = None
    ) -> RunResult:
        """Return the result for an exit status and the two outputs."""
        return cls(
            stdout_bytes=stdout,
            stderr_bytes=stderr,
            exit_code=status.code,
            signal=status.signal,
            duration=duration,
            timed_out=status.timed_out,
            truncated=status.truncated,
            oom=status.oom,
            limit_hits=tuple(sorted(status.limits)),
            usage=usage,
            message=status.message,
        )

    @property
    def stdout(self) -> str:
        """The output as text; what isn't UTF-8 shows as U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """The error output as text; what isn't UTF-8 shows as U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        """Whether it exited with 0 in time. Its output may still be cut: see ``truncated``."""
        return self.exit_code == 0 and not self.timed_out

    @property
    def shell_status(self) -> int:
        """One number as shells give it: 124 on timeout, 137 on a kill by a limit, 128 + n for signal n."""
        if self.timed_out:
            return _TIMED_OUT
        if self.exit_code is not None:
            return self.exit_code
        if self.oom or self.limit_hits:
            return _KILLED
        return _SIGNAL_BASE + (self.signal or 0)

    def document(self) -> dict[str, object]:
        """Return the result as JSON-able data, the outputs as text."""
        usage = self.usage
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "timed_out": self.timed_out,
            "truncated": self.truncated,
            "oom": self.oom,
            "limit_hits": list(self.limit_hits),
            "message": self.message,
            "duration": self.duration.total_seconds(),
            "usage": None
            if usage is None
            else {
                "cpu": usage.cpu.total_seconds() if usage.cpu is not None else None,
                "memory": usage.memory,
                "memory_peak": usage.memory_peak,
                "processes": usage.processes,
                "disk": usage.disk,
            },
            "stdout": self.stdout,
            "stderr": self.stderr,
        }

    def check(self) -> RunResult:
        """Return this result when it succeeded with its output complete.

        Raises ExecTimeoutError, OutputLimitError or CommandFailedError; their details hold the end of stderr.
        """
        if self.timed_out:
            msg = f"the program ran over its time and was killed after {self.duration.total_seconds():.1f} s"
            raise self._error(ExecTimeoutError, msg, "ask for more time, or raise time.exec in the policy")
        if self.truncated:
            msg = "the program wrote more than the output limit"
            raise self._error(OutputLimitError, msg, "raise output.max_bytes in the policy")
        if not self.ok:
            how = f"exited with {self.exit_code}" if self.signal is None else f"was ended by signal {self.signal}"
            limits = f" at the limit {', '.join(self.limit_hits)}" if self.limit_hits else ""
            msg = f"the program {how}{limits}{': ' + self.message if self.message else ''}"
            raise self._error(CommandFailedError, msg, "")
        return self

    def _error(self, kind: type[ExecutionError], message: str, hint: str) -> ExecutionError:
        details = {
            "exit_code": self.exit_code,
            "signal": self.signal,
            "limit_hits": list(self.limit_hits),
            "stdout": self.stdout[-_TAIL:],
            "stderr": self.stderr[-_TAIL:],
        }
        return kind(message, hint=hint, details=details)
