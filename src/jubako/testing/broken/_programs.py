"""Drivers that break a promise about starting, ending or signalling programs."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
from anyio.lowlevel import checkpoint

from jubako.boundary.contract import ExecRequest, ExitStatus
from jubako.errors import LaunchError, SandboxStateError
from jubako.testing.broken._delegate import BrokenDriver, BrokenInstance, BrokenProcess
from jubako.testing.conformance import collect

if TYPE_CHECKING:
    from jubako.boundary.contract import Driver, DriverContext, Process, TerminalSize
    from jubako.policy import Policy

__all__ = ["PROGRAM_DEFECTS"]

_TIMED: Final = frozenset({"preload.ends", "time.exec", "time.output-kept", "time.tree", "time.background"})


class IgnoresTimeout(BrokenDriver):
    """Starts programs without their time limit."""

    breaks = _TIMED
    reach = frozenset({"exec.timeout"})

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Drop the limit."""
        return replace(request, timeout=None)


class HidesTimeout(BrokenDriver):
    """Kills programs over their time, but reports it as any other end."""

    breaks = _TIMED
    reach = frozenset({"status.timed_out"})

    def change_status(self, status: ExitStatus) -> ExitStatus:
        """Drop the flag."""
        return replace(status, timed_out=False)


class KeepsChild(BrokenDriver):
    """Leaves a child alive that made itself a session of its own."""

    breaks = frozenset({"kill.tree", "preload.ends", "tty.kill"})
    reach = frozenset({"kill"})

    class _Process(BrokenProcess):
        _FIND = """
import glob
for path in glob.glob("/proc/[0-9]*/stat"):
    try:
        pid, rest = path.split("/")[2], open(path).read().rpartition(")")[2].split()
        if rest[1] != "1" and rest[3] == pid:
            print(open("/proc/%s/cmdline" % pid).read().rstrip(chr(0)).replace(chr(0), chr(10)))
            break
    except OSError:
        pass
"""

        async def kill(self) -> None:
            """Kill, then start the child again."""
            inner = self.owner.inner
            found = await collect(await inner.exec(ExecRequest(("python3", "-c", self._FIND))))
            await super().kill()
            argv = tuple(found.text.split("\n"))
            if found.text and argv != self.request.argv:
                await inner.exec(ExecRequest(argv))

    process_type = _Process


class StartsCold(BrokenDriver):
    """Starts every program without the preloaded modules, whatever was asked for."""

    breaks = frozenset({"features.preload", "preload.failing", "preload.modules"})
    reach = frozenset({"exec.preloaded"})

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Drop the wish."""
        return replace(request, preloaded=False)


class WrongExitCode(BrokenDriver):
    """Takes exit codes from 128 on for signals and cuts them."""

    breaks = frozenset({"exec.exit-code"})
    reach = frozenset({"status.high"})

    def change_status(self, status: ExitStatus) -> ExitStatus:
        """Cut the code to seven bits."""
        return replace(status, code=status.code & 0x7F) if status.code is not None else status


class SignalAsCode(BrokenDriver):
    """Reports a death by signal as shells do, as a code."""

    breaks = frozenset({
        "exec.signal-status", "features.signals", "kill.program", "kill.spares-others", "kill.tree", "output.unread",
        "signals.default", "stop.prompt", "stop.stubborn", "time.exec", "tty.kill",
    })  # fmt: skip
    reach = frozenset({"status.signal"})

    def change_status(self, status: ExitStatus) -> ExitStatus:
        """Turn the signal into a code."""
        return status if status.signal is None else replace(status, code=128 + status.signal, signal=None)


class MissingExecutableRaises(BrokenDriver):
    """Raises an error of its own for a missing executable."""

    breaks = frozenset({"exec.missing-executable"})
    reach = frozenset({"status.message"})

    def change_status(self, status: ExitStatus) -> ExitStatus:
        """Raise instead."""
        if status.code == 127 and status.message:  # the documented code
            raise LaunchError("the program could not be started")
        return status


class NoWorkingDirectory(BrokenDriver):
    """Starts every program in the workspace."""

    breaks = frozenset({"exec.cwd-given", "exec.cwd-missing", "preload.request"})
    reach = frozenset({"exec.cwd"})

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Drop the directory."""
        return replace(request, cwd=None) if request.cwd is None or "\0" not in str(request.cwd) else request


class LeaksEnvironment(BrokenDriver):
    """Lets variables of the host through."""

    breaks = frozenset({"exec.env-base"})
    reach = frozenset({"exec.canary"})

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Add what begins like the canary."""
        leaked = {name: value for name, value in os.environ.items() if name.startswith("JUBAKO_CANARY")}
        return replace(request, env={**leaked, **request.env})


class ForgetsEnvironment(BrokenDriver):
    """Drops the policy's variables."""

    breaks = frozenset({"exec.env-policy"})
    reach = frozenset({"policy.environment"})

    def change_policy(self, policy: Policy, context: DriverContext) -> Policy:
        """Use the default section."""
        del context
        return policy.model_copy(update={"environment": type(policy.environment)()})


class DropsEmptyArguments(BrokenDriver):
    """Loses empty arguments, as joining and splitting does."""

    breaks = frozenset({"exec.argv-exact"})
    reach = frozenset({"exec.empty"})

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Drop them."""
        return replace(request, argv=(*request.argv[:1], *(item for item in request.argv[1:] if item)))


class ReplacesUser(BrokenDriver):
    """Runs a program as the usual user when it can't find the one asked for."""

    breaks = frozenset({"exec.user-unknown"})
    reach = frozenset({"exec.user"})

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Drop the user."""
        return replace(request, user=None)


class ReusesIds(BrokenDriver):
    """Gives all programs one id."""

    breaks = frozenset({"exec.ids"})
    reach = frozenset({"id"})

    class _Process(BrokenProcess):
        @property
        def id(self) -> str:
            """The same for all."""
            return "1"

    process_type = _Process


class WaitsOnce(BrokenDriver):
    """Forgets a status once it was told."""

    breaks = frozenset({"exec.wait-twice", "kill.idempotent", "signals.after-exit"})
    reach = frozenset({"wait.twice"})

    class _Process(BrokenProcess):
        async def wait(self) -> ExitStatus:
            """Tell the status, then nonsense."""
            again = self.ended
            status = await super().wait()
            return ExitStatus(code=99, signal=None) if again else status

    process_type = _Process


class WaitKills(BrokenDriver):
    """Kills a program when a wait for it is cancelled."""

    breaks = frozenset({"exec.wait-cancelled"})
    reach = frozenset({"exec.stdin"})

    class _Process(BrokenProcess):
        async def wait(self) -> ExitStatus:
            """Wait, and kill on the way out."""
            try:
                return await super().wait()
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await self.inner.kill()
                raise

    process_type = _Process


class CancelLeaks(BrokenDriver):
    """Leaves a program running whose start was cancelled."""

    breaks = frozenset({"exec.cancelled"})
    reach = frozenset({"exec.cancelled"})

    class _Instance(BrokenInstance):
        async def exec(self, request: ExecRequest) -> Process:
            """Start it whatever happens to the caller."""
            started: list[Process] = []
            with anyio.CancelScope(shield=True):
                started.append(await super().exec(request))
            await checkpoint()
            return started[0]

    instance_type = _Instance


class KillsTwiceFails(BrokenDriver):
    """Makes killing what has ended an error."""

    breaks = frozenset({
        "exec.wait-background", "features.signals", "kill.idempotent", "limits.after-forks", "limits.processes",
    })  # fmt: skip
    reach = frozenset({"kill"})

    class _Process(BrokenProcess):
        async def kill(self) -> None:
            """Kill what lives only."""
            if self.ended:
                raise SandboxStateError("the program has ended")
            await super().kill()

    process_type = _Process


class KillsEverything(BrokenDriver):
    """Kills all programs of the sandbox instead of one tree."""

    breaks = frozenset({"kill.spares-others", "limits.after-forks"})
    reach = frozenset({"kill"})

    class _Process(BrokenProcess):
        async def kill(self) -> None:
            """Kill them all."""
            for process in self.owner.processes:
                await process.inner.kill()
            await super().kill()

    process_type = _Process


class KillsBackground(BrokenDriver):
    """Kills what a program left in the background when it ends."""

    breaks = frozenset({"background.survives", "features.background"})
    reach = frozenset({"wait"})

    class _Process(BrokenProcess):
        async def wait(self) -> ExitStatus:
            """Wait, then kill the rest."""
            status = await super().wait()
            await self.inner.kill()
            return status

    process_type = _Process


class SignalsByDefault(BrokenDriver):
    """Has a method that differs from the contract."""

    breaks = frozenset({"contract.shape"})
    reach = frozenset({"asks.driver"})

    class _Process(BrokenProcess):
        async def signal(self, number: int = 15) -> None:
            """Send a signal, SIGTERM if none is named."""
            await super().signal(number)

    process_type = _Process


class SwallowsSignal(BrokenDriver):
    """Passes on only the signals it knows."""

    breaks = frozenset({"signals.handler", "signals.tree"})
    reach = frozenset({"signal"})

    class _Process(BrokenProcess):
        async def signal(self, number: int) -> None:
            """Pass on all but SIGUSR1."""
            if number != 10:  # SIGUSR1
                await super().signal(number)

    process_type = _Process


class SignalGoneFails(BrokenDriver):
    """Makes signalling what has ended an error."""

    breaks = frozenset({"signals.after-exit"})
    reach = frozenset({"signal"})

    class _Process(BrokenProcess):
        async def signal(self, number: int) -> None:
            """Signal what lives only."""
            if self.ended:
                raise SandboxStateError("the program has ended")
            await super().signal(number)

    process_type = _Process


class IgnoresResize(BrokenDriver):
    """Keeps a terminal at its first size."""

    breaks = frozenset({"tty.resize"})
    reach = frozenset({"resize"})

    class _Process(BrokenProcess):
        async def resize(self, size: TerminalSize) -> None:
            """Do nothing where there is a terminal."""
            if self.request.tty is None:
                await super().resize(size)

    process_type = _Process


class NoTerminal(BrokenDriver):
    """Declares terminals and gives pipes."""

    breaks = frozenset({
        "features.tty", "tty.echo", "tty.interrupt", "tty.is-terminal", "tty.job-control", "tty.merged", "tty.resize",
        "tty.session", "tty.size", "tty.size-invalid",
    })  # fmt: skip
    reach = frozenset({"exec.tty"})

    def change_request(self, request: ExecRequest) -> ExecRequest:
        """Drop the terminal."""
        return replace(request, tty=None)


class HidesLimits(BrokenDriver):
    """Never says which limit a program ran into."""

    breaks = frozenset({
        "limits.memory", "limits.memory-sum", "limits.processes", "limits.processes-exec", "output.limit", "time.exec",
    })  # fmt: skip
    reach = frozenset({"status.limits"})

    def change_status(self, status: ExitStatus) -> ExitStatus:
        """Drop them."""
        return replace(status, limits=frozenset())


class BlamesNextProgram(BrokenDriver):
    """Names a limit again for programs that come after the one that ran into it."""

    breaks = frozenset({"limits.after-bomb", "limits.after-forks"})
    reach = frozenset({"status.limits"})

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._seen: frozenset[str] = frozenset()

    def change_status(self, status: ExitStatus) -> ExitStatus:
        """Add what was seen before."""
        self._seen |= status.limits & {"resource.memory", "resource.processes"}
        return replace(status, limits=status.limits | self._seen)


PROGRAM_DEFECTS: Final[tuple[type[BrokenDriver], ...]] = (
    IgnoresTimeout,
    HidesTimeout,
    KeepsChild,
    StartsCold,
    WrongExitCode,
    SignalAsCode,
    MissingExecutableRaises,
    NoWorkingDirectory,
    LeaksEnvironment,
    ForgetsEnvironment,
    DropsEmptyArguments,
    ReplacesUser,
    ReusesIds,
    WaitsOnce,
    WaitKills,
    CancelLeaks,
    KillsTwiceFails,
    KillsEverything,
    KillsBackground,
    SignalsByDefault,
    SwallowsSignal,
    SignalGoneFails,
    IgnoresResize,
    NoTerminal,
    HidesLimits,
    BlamesNextProgram,
)
