"""What a sandbox may be that goes on from another one: never more than its parent was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from jubako.boundary.contract import Feature, Restorer
from jubako.errors import InvalidRequestError, SnapshotIncompatibleError
from jubako.policy.merge import merge
from jubako.runtime.arguments import build_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jubako.policy import Policy, SandboxSpec
    from jubako.runtime.planner import Planned
    from jubako.runtime.snapshots import Snapshot

__all__ = ["check_count", "restored_spec", "restorer_of"]

_MOST_FORKS: Final = 1000


def check_count(count: int) -> None:
    """Return for 1 to 1000 forks. Raises InvalidRequestError."""
    given = cast("object", count)  # whatever callers without a type checker may give
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= _MOST_FORKS:
        msg = f"a sandbox can be forked 1 to {_MOST_FORKS} times at once"
        raise InvalidRequestError(msg, details={"count": str(count)})


def restored_spec(
    snapshot: Snapshot, policy: Policy | None, *, name: str | None = None, labels: Mapping[str, str] | None = None
) -> SandboxSpec:
    """Return the spec of a child: its parent's wall, and at most its parent's rights."""
    parent = snapshot.spec
    return build_spec(
        boundary=snapshot.boundary,
        driver=snapshot.driver,
        template=parent.template,
        name=name,
        labels=labels,
        preload=parent.preload,
        policy=parent.policy if policy is None else merge(parent.policy, policy),
    )


def restorer_of(planned: Planned, snapshot: Snapshot) -> Restorer:
    """Return the driver as one that restores. Raises SnapshotIncompatibleError where it can't."""
    driver = planned.driver
    if Feature.SNAPSHOT not in planned.report.features or not isinstance(driver, Restorer):
        msg = f"driver {planned.plan.driver} can't restore snapshots on this machine"
        raise SnapshotIncompatibleError(msg, details={"snapshot": snapshot.digest, "driver": planned.plan.driver})
    return driver
