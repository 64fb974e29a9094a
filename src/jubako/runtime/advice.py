"""Questions that start nothing: what would hold here, and what this machine can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jubako._lib.paths import state_dir
from jubako.runtime.arguments import build_spec
from jubako.runtime.planner import Planner
from jubako.store import ProbeFindings

if TYPE_CHECKING:
    from jubako.boundary.card import Card
    from jubako.runtime.arguments import PolicyLike
    from jubako.runtime.planner import DoctorReport

__all__ = ["async_doctor", "async_explain"]


async def async_explain(
    *, boundary: str = "auto", driver: str | None = None, policy: PolicyLike = None, template: str = "host"
) -> Card:
    """Return the card of a sandbox with these arguments, without making it.

    A card may show controls that would refuse the launch: see ``Card.refusals``. Raises
    DriverUnavailableError when no such boundary works here.
    """
    planner = Planner(findings=ProbeFindings(state_dir()))
    try:
        spec = build_spec(boundary=boundary, driver=driver, policy=policy, template=template)
        return (await planner.plan(spec)).card
    finally:
        await planner.aclose()


async def async_doctor() -> DoctorReport:
    """Return which drivers work here, how each control would hold, and what to do about the rest."""
    planner = Planner()
    try:
        return await planner.doctor()
    finally:
        await planner.aclose()
