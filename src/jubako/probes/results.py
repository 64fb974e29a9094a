"""The last complete run per driver, kept so that cards can show it."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from jubako._lib.paths import private_dir, state_dir
from jubako.probes.model import ProbeResult, ProbeRunReport, Verdict

if TYPE_CHECKING:
    from jubako.boundary.card import CardProbes

__all__ = ["card_probes", "from_document", "load_results", "store_results", "to_document"]

_VERSION: Final = 1
_LIMIT: Final = 4 * 1024 * 1024


def to_document(report: ProbeRunReport) -> dict[str, object]:
    """Return the report as JSON-able data, with counts."""
    document: dict[str, object] = {"schema_version": _VERSION, **asdict(report)}
    document["started"] = report.started.isoformat()
    document["counts"] = {str(verdict): report.count(verdict) for verdict in Verdict}
    document["results"] = [{**asdict(item), "verdict": str(item.verdict)} for item in report.results]
    return document


def from_document(document: dict[str, object]) -> ProbeRunReport:
    """Return the report that ``to_document`` wrote. Raises ValueError, TypeError or KeyError for anything else."""
    fields = dict(document)
    if fields.pop("schema_version") != _VERSION:
        raise ValueError("another version of the format")
    fields.pop("counts")
    raw = cast("list[dict[str, object]]", fields.pop("results"))
    results = tuple(ProbeResult(**{**item, "verdict": Verdict(item["verdict"])}) for item in raw)  # type: ignore[arg-type]  # a wrong field is a TypeError, as promised
    started = datetime.fromisoformat(str(fields.pop("started")))
    return ProbeRunReport(**fields, started=started, results=results)  # type: ignore[arg-type]  # likewise


def _path(driver: str) -> Path:
    return private_dir(state_dir() / "probes") / f"{Path(driver).name}.json"


def store_results(report: ProbeRunReport) -> Path:
    """Keep the report as the driver's last one and return where it is."""
    path = _path(report.driver)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(to_document(report), file, indent=1)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    return path


def load_results(driver: str, *, version: str | None = None) -> ProbeRunReport | None:
    """Return the driver's last complete run on this kernel by this user; None when there is none.

    A run with another version of the mechanism (``version``), another kernel or another user says nothing
    about the present one.
    """
    path = _path(driver)
    try:
        if path.stat().st_size > _LIMIT:
            return None
        report = from_document(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    same = report.kernel == os.uname().release and report.uid == os.geteuid()
    return report if same and (version is None or report.version == version) else None


def card_probes(report: ProbeRunReport) -> CardProbes:
    """Return the report as a card shows it: counts per control."""
    from jubako.boundary.card import CardProbes, ProbeTally

    counts: dict[str, dict[str, int]] = {}
    for item in report.results:
        tally = counts.setdefault(item.control, {})
        tally[item.verdict] = tally.get(item.verdict, 0) + 1
    return CardProbes(at=report.started, controls={control: ProbeTally(**tally) for control, tally in counts.items()})
