"""Sessions around a snapshot: a source that is still meanwhile, and a child that becomes somebody else."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import anyio

from jubako.errors import InstanceLostError, LaunchError, SandboxStateError
from jubako.guest.config import AgentHello
from jubako.guest.text import printable
from jubako.guest.tools import ToolExchange
from jubako.guest.wire import PROTOCOL, Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jubako.guest.machine import Machine
    from jubako.guest.wire import Fields

__all__ = ["Identity", "Stillness", "hello_of_child"]

_MARGIN: Final = 10.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a restored sandbox becomes: nothing of it is the source's. ``env`` is added for its programs."""

    hostname: str
    machine_id: str = field(default_factory=lambda: secrets.token_hex(16))
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(64), repr=False)
    env: Mapping[str, str] = field(default_factory=dict[str, str])


def hello_of_child(fields: Fields) -> AgentHello:
    """Return what a restored agent said about itself.

    Raises:
        LaunchError: It speaks another protocol, or kept a part of its source's identity.
    """
    features, missing = cast("list[bytes]", fields[5]), cast("list[bytes]", fields[9])
    protocol, agent, python, pid, uid = cast("tuple[int, str, str, int, int]", fields[:5])
    if protocol != PROTOCOL:
        msg = f"the restored agent speaks protocol {protocol}, this host {PROTOCOL}"
        raise LaunchError(msg, hint="make the snapshot again with this version")
    if missing:
        parts = [printable(name.decode("utf-8", "replace")[:64]) for name in missing]
        msg = f"the restored sandbox kept its source's {', '.join(parts)}"
        raise LaunchError(msg, hint="make the snapshot again with this version", details={"kept": parts})
    names = frozenset(name.decode("ascii", "replace") for name in features)
    abi, landlock, note = cast("tuple[int, int, str]", fields[6:9])
    return AgentHello(protocol, agent, python, pid, uid, names, abi, bool(landlock), printable(note))


class Stillness:
    """Whether one session's agent has been told to be still, and what follows.

    From PREPARE on, the machine keeps back all that is to be sent: requests made meanwhile wait.
    """

    def __init__(self, machine: Machine, seconds: float) -> None:
        self._machine = machine
        self._seconds = seconds + _MARGIN
        self._free = anyio.Event()
        self.active = False
        """Requests are kept back."""
        self._still = False

    def begin(self) -> None:
        """Ask the agent to be still. Raises SandboxStateError while requests are open."""
        if self.active:
            raise SandboxStateError("a snapshot of the sandbox is being made already", details={"call": "snapshot"})
        streams = [item for item in self._machine.streams.values() if not _is_waiting(item)]
        if streams:
            programs = sum(item.request is Message.EXEC for item in streams)
            msg = f"{programs} programs run in the sandbox" if programs else f"{len(streams)} requests are open"
            raise _refused(msg, programs)
        self.active = True
        self._free = anyio.Event()
        self._machine.prepare()

    async def settled(self) -> None:
        """Return once nothing moves inside.

        Raises:
            SandboxStateError: Something does; requests go on.
            InstanceLostError: The sandbox died.
            TimeoutError: The agent did not answer.
        """
        machine = self._machine
        with anyio.fail_after(self._seconds):
            await machine.quiet.wait()
        if machine.answer is None:
            raise InstanceLostError("the sandbox died")
        still, running, text = cast("tuple[int, int, str]", machine.answer)
        if not still:
            self._release()
            raise _refused(printable(text), running)
        self._still = True

    def end(self) -> None:
        """Let the agent, and what was kept back, go on; idempotent."""
        if self.active:
            if self._still:
                self._machine.go_on()
            self._release()

    def _release(self) -> None:
        self.active = self._still = False
        self._machine.release()
        self._free.set()

    async def over(self) -> None:
        """Return once nothing is kept back."""
        while self.active:
            await self._free.wait()


def _is_waiting(exchange: object) -> bool:
    return isinstance(exchange, ToolExchange) and exchange.tool is None


def _refused(text: str, running: int) -> SandboxStateError:
    return SandboxStateError(
        f"no snapshot now: {text}",
        hint="wait for programs to end, or kill them; close files and watches",
        details={"call": "snapshot", "running": running},
    )
