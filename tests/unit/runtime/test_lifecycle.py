from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jubako.errors import (
    InstanceLostError,
    JubakoError,
    LifecycleError,
    ProtocolError,
    SandboxExpiredError,
    SandboxStateError,
)
from jubako.runtime.lifecycle import TRANSITIONS, Lifecycle, SandboxState

STATES = list(SandboxState)
CODES = ["", "sandbox-expired", "instance-lost", "protocol-violation"]


def test_table_covers_all_states_and_every_state_leads_to_destroyed() -> None:
    assert set(TRANSITIONS) == set(SandboxState)
    for state, targets in TRANSITIONS.items():
        assert (SandboxState.DESTROYED in targets) == (state is not SandboxState.DESTROYED)
        assert state not in targets
        assert SandboxState.PENDING not in targets


class LifecycleMachine(RuleBasedStateMachine):
    """Compares with a model that knows only: the state, whether it is closing, and the first code."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[SandboxState, SandboxState, str]] = []
        self.lifecycle = Lifecycle(lambda *step: self.told.append(step))
        self.state = SandboxState.PENDING
        self.closing = False
        self.code = ""

    @rule(to=st.sampled_from(STATES), reason=st.text(max_size=5), code=st.sampled_from(CODES))
    def move(self, to: SandboxState, reason: str, code: str) -> None:
        before = len(self.told)
        if to in TRANSITIONS[self.state]:
            assert self.lifecycle.can(to)
            self.lifecycle.move(to, reason=reason, code=code)
            assert self.told[before:] == [(self.state, to, reason)]
            self.state = to
            self.code = self.code or code
            self.closing = self.closing or to is SandboxState.DESTROYED
            assert self.lifecycle.reason == reason
        else:
            assert not self.lifecycle.can(to)
            with pytest.raises(SandboxStateError):
                self.lifecycle.move(to, reason=reason, code=code)
            assert len(self.told) == before

    @rule(code=st.sampled_from(CODES))
    def close(self, code: str) -> None:
        self.lifecycle.close(code)
        self.closing = True
        self.code = self.code or code

    @precondition(lambda self: SandboxState.FAILED in TRANSITIONS[self.state])
    @rule(code=st.sampled_from(CODES))
    def fail_silently(self, code: str) -> None:
        before = len(self.told)
        self.lifecycle.fail_silently("because", code)
        self.state = SandboxState.FAILED
        self.code = self.code or code
        assert len(self.told) == before

    @rule(allowed=st.lists(st.sampled_from(STATES), min_size=1, unique=True))
    def require(self, allowed: list[SandboxState]) -> None:
        if self.state in allowed and not self.closing:
            self.lifecycle.require("call", *allowed)
            return
        wanted: type[JubakoError] = {
            "": SandboxStateError,
            "sandbox-expired": SandboxExpiredError,
            "instance-lost": InstanceLostError,
            "protocol-violation": ProtocolError,
        }[self.code]
        with pytest.raises(wanted) as caught:
            self.lifecycle.require("call", *allowed)
        assert caught.value.details["state"] == self.state
        assert caught.value.details["call"] == "call"

    @invariant()
    def agrees(self) -> None:
        assert self.lifecycle.state is self.state
        assert self.lifecycle.closing is self.closing


TestLifecycleMachine = LifecycleMachine.TestCase
TestLifecycleMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_refusals_are_lifecycle_or_boundary_errors_that_name_the_state() -> None:
    lifecycle = Lifecycle()
    with pytest.raises(LifecycleError, match="exec needs a running sandbox; this one is pending"):
        lifecycle.require("exec", SandboxState.RUNNING)
    lifecycle.move(SandboxState.RUNNING)
    lifecycle.close()
    with pytest.raises(LifecycleError, match="this one is being destroyed"):
        lifecycle.require("exec", SandboxState.RUNNING)


def test_first_cause_stays() -> None:
    lifecycle = Lifecycle()
    lifecycle.move(SandboxState.RUNNING)
    lifecycle.move(SandboxState.FAILED, reason="out of memory", code="instance-lost")
    lifecycle.move(SandboxState.DESTROYED, reason="destroyed", code="sandbox-expired")
    with pytest.raises(InstanceLostError):
        lifecycle.require("run", SandboxState.RUNNING)
