"""What the last complete run of the containment probes found, as cards show it.

``jubako probe`` keeps one document per driver. It says something about the present only for the same
version of the mechanism, the same kernel and the same user.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jubako.boundary.card import CardProbes, ProbeTally

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ProbeFindings"]

_FORMAT: Final = 1
_LARGEST: Final = 4 * 1024 * 1024


class ProbeFindings:
    """The findings kept below one state directory; a document is read again only when it has changed."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._known: dict[tuple[str, str | None], tuple[tuple[int, int], CardProbes | None]] = {}

    def of(self, driver: str, version: str | None) -> CardProbes | None:
        """Return what was found for this driver on this kernel by this user, or None."""
        path = self._state / "probes" / f"{Path(driver).name}.json"
        try:
            status = path.stat()
        except OSError:
            return None
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._known.get((driver, version))
        if known is None or known[0] != stamp:
            known = (stamp, _read(path, version) if status.st_size <= _LARGEST else None)
            self._known[driver, version] = known
        return known[1]


def _read(path: Path, version: str | None) -> CardProbes | None:
    try:
        document = json.loads(path.read_bytes())
        if not _is_about_here(document, version):
            return None
        counts: dict[str, dict[str, int]] = {}
        for item in document["results"]:
            tally = counts.setdefault(str(item["control"]), {})
            tally[item["verdict"]] = tally.get(item["verdict"], 0) + 1
        controls = {control: ProbeTally.model_validate(tally) for control, tally in counts.items()}
        return CardProbes(at=datetime.fromisoformat(document["started"]), controls=controls)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # a card without findings is honest; one that can't be made would stop every launch


def _is_about_here(document: Mapping[str, object], version: str | None) -> bool:
    return (
        document["schema_version"] == _FORMAT
        and document["complete"] is True
        and document["kernel"] == os.uname().release
        and document["uid"] == os.geteuid()
        and document["version"] == (version or "")
    )
