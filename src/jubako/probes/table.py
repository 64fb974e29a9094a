"""Reports of probes as text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from jubako._lib.text import printable
from jubako.policy.controls import CONTROLS
from jubako.probes.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jubako.probes.model import Probe, ProbeResult, ProbeRunReport

__all__ = ["listing_lines", "markdown_lines", "markdown_names", "report_lines"]


def listing_lines(probes: Sequence[Probe]) -> Iterator[str]:
    """Yield one line per probe."""
    width = max((len(probe.id) for probe in probes), default=0)
    for probe in probes:
        yield f"{probe.id:{width}}  {probe.title}"


def report_lines(report: ProbeRunReport, *, verbose: bool, width: int) -> Iterator[tuple[str, Verdict | None]]:
    """Yield a table by control, then every probe that wasn't contained (all of them when ``verbose``).

    Each line comes with the verdict that it is about, if any, so that the caller can colour it.
    """
    yield (
        f"{report.driver} {report.version} ({report.boundary} boundary), Linux {report.kernel}, uid {report.uid}",
        None,
    )
    yield f"{'control':32} {'contained':>9} {'escaped':>8} {'inconclusive':>13}", None
    for control, results in by_control(report.results).items():
        counts = [sum(1 for item in results if item.verdict is verdict) for verdict in Verdict]
        worst = Verdict.ESCAPED if counts[1] else Verdict.CONTAINED if counts[0] else Verdict.INCONCLUSIVE
        cells = [f"{count or '-':>{size}}" for count, size in zip(counts, (9, 8, 13), strict=True)]
        yield f"{control:32} {' '.join(cells)}", worst
    for verdict in (Verdict.CONTAINED, Verdict.INCONCLUSIVE, Verdict.ESCAPED):
        if verdict is Verdict.CONTAINED and not verbose:
            continue
        for item in report.of(verdict):
            yield from _details(item, width)
    yield "", None
    counts_text = ", ".join(f"{report.count(verdict)} {verdict}" for verdict in Verdict)
    worst = Verdict.ESCAPED if report.count(Verdict.ESCAPED) else Verdict.CONTAINED
    yield f"{counts_text} of {len(report.results)} probes in {report.seconds:.1f} s", worst


def _details(item: ProbeResult, width: int) -> Iterator[tuple[str, Verdict | None]]:
    yield "", None
    yield f"{item.verdict}: {item.id}  {item.title}", item.verdict
    for name, text in (("why", item.reason), ("inside", item.inside), ("outside", item.outside)):
        if text and (name == "why" or text != item.reason):
            for line in textwrap.wrap(
                f"{name}: {printable(text)}", max(width, 40), initial_indent="  ", subsequent_indent="    "
            ):
                yield line, None


def by_control(results: Sequence[ProbeResult]) -> dict[str, list[ProbeResult]]:
    """Return the results grouped by control, in the order in which cards list controls."""
    grouped: dict[str, list[ProbeResult]] = {}
    for item in results:
        grouped.setdefault(item.control, []).append(item)
    order = {control: number for number, control in enumerate(CONTROLS)}
    return dict(sorted(grouped.items(), key=lambda entry: order.get(entry[0], len(order))))


def markdown_lines(*reports: ProbeRunReport) -> Iterator[str]:
    """Yield a Markdown table: every control, what its probes try, their ids, and what came of them per driver."""
    for report in reports:
        yield (
            f"- `{report.driver}` {report.version} ({report.boundary} boundary), {report.started:%Y-%m-%d}, "
            f"Linux {report.kernel}, {'root' if report.uid == 0 else 'an ordinary user'}: "
            + ", ".join(f"{report.count(verdict)} {verdict}" for verdict in Verdict)
            + f" of {len(report.results)}"
        )
    yield ""
    yield f"| control | what it tries | probe | {' | '.join(f'`{report.driver}`' for report in reports)} |"
    yield f"|---|---|---|{'---|' * len(reports)}"
    found = [{item.id: item for item in report.results} for report in reports]
    everything = {item.id: item for results in found for item in results.values()}
    for control, results in by_control(tuple(everything.values())).items():
        for number, item in enumerate(results):
            shown = f"`{control}`" if number == 0 else ""
            cells = " | ".join(str(of[item.id].verdict) if item.id in of else "-" for of in found)
            yield f"| {shown} | {_cell(item.title)} | `{item.id}` | {cells} |"
    for report in reports:
        unproven = report.of(Verdict.INCONCLUSIVE)
        if unproven:
            yield ""
            yield f"Inconclusive behind `{report.driver}`, with the reason:"
            yield ""
            for item in unproven:
                yield f"- `{item.id}`: {_cell(item.reason)}"


def markdown_names(probes: Sequence[Probe]) -> Iterator[str]:
    """Yield the ids that such a table must name."""
    for probe in probes:
        yield probe.id


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")
