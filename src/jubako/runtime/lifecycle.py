"""The states of a sandbox and the steps between them."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako.errors import InstanceLostError, ProtocolError, SandboxExpiredError, SandboxStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["TRANSITIONS", "Lifecycle", "SandboxState"]


class SandboxState(StrEnum):
    """Where a sandbox is in its life."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"
    DESTROYED = "destroyed"


_S = SandboxState

TRANSITIONS: Final[Mapping[SandboxState, frozenset[SandboxState]]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.RUNNING, _S.FAILED, _S.DESTROYED}),
        _S.RUNNING: frozenset({_S.PAUSED, _S.STOPPED, _S.FAILED, _S.DESTROYED}),
        _S.PAUSED: frozenset({_S.RUNNING, _S.STOPPED, _S.FAILED, _S.DESTROYED}),
        _S.STOPPED: frozenset({_S.FAILED, _S.DESTROYED}),
        _S.FAILED: frozenset({_S.DESTROYED}),
        _S.DESTROYED: frozenset(),
    }
)
"""The only steps that exist. Every state leads to destroyed, and nothing leads out of it."""


class Lifecycle:
    """One sandbox's state. Every change goes through ``move`` and is told to ``on_change``."""

    def __init__(self, on_change: Callable[[SandboxState, SandboxState, str], None] | None = None) -> None:
        self._state = SandboxState.PENDING
        self._reason = ""
        self._code = ""
        self._closing = False
        self._on_change = on_change

    @property
    def state(self) -> SandboxState:
        """The state now."""
        return self._state

    @property
    def reason(self) -> str:
        """Why the sandbox is in this state; may be empty."""
        return self._reason

    @property
    def closing(self) -> bool:
        """Whether the sandbox is being destroyed, or was."""
        return self._closing

    def can(self, target: SandboxState) -> bool:
        """Whether the step from here to ``target`` exists."""
        return target in TRANSITIONS[self._state]

    def move(self, target: SandboxState, *, reason: str = "", code: str = "") -> None:
        """Go to ``target``. Raises SandboxStateError when no such step exists; then nothing changes.

        ``code`` is the error code under which later calls are refused, for failed and expired sandboxes.
        """
        if not self.can(target):
            msg = f"a {self._state} sandbox can't become {target}"
            raise SandboxStateError(msg, details={"state": str(self._state), "target": str(target)})
        previous, self._state, self._reason = self._state, target, reason
        self._code = self._code or code
        self._closing = self._closing or target is SandboxState.DESTROYED
        if self._on_change is not None:
            self._on_change(previous, target, reason)

    def close(self, code: str = "") -> None:
        """Refuse all calls from now on: the sandbox is being destroyed. The first code stays."""
        self._closing = True
        self._code = self._code or code

    def fail_silently(self, reason: str, code: str) -> None:
        """Go to failed without telling: for when telling is what failed."""
        self._state, self._reason, self._code = SandboxState.FAILED, reason, self._code or code

    def require(self, call: str, *allowed: SandboxState) -> None:
        """Return when the state is one of ``allowed``.

        Raises SandboxExpiredError, ProtocolError or InstanceLostError where one of these ended the
        sandbox, else SandboxStateError.
        """
        if self._state in allowed and not self._closing:
            return
        details = {"state": str(self._state), "call": call}
        if self._code == SandboxExpiredError.code:
            msg = f"{call}: the sandbox's time to live ran out"
            raise SandboxExpiredError(msg, hint="raise time.sandbox in the policy or make a new one", details=details)
        if self._code:
            kind = ProtocolError if self._code == ProtocolError.code else InstanceLostError
            msg = f"{call}: the sandbox is gone: {self._reason or self._code}"
            raise kind(msg, hint="make a new sandbox", details={**details, "code": self._code})
        now = "being destroyed" if self._closing and self._state is not SandboxState.DESTROYED else str(self._state)
        wanted = " or ".join(allowed)
        msg = f"{call} needs a {wanted} sandbox; this one is {now}"
        raise SandboxStateError(msg, details=details)
