"""``jubako probe``: hostile programs, and whether the walls hold them."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from jubako.cli._options import colored, json_option, run_async, terminal_width

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from jubako.probes import ProbeResult

__all__ = ["command"]

_COLORS = MappingProxyType({"contained": "green", "escaped": "red", "inconclusive": "yellow"})


@click.command("probe")
@click.option("--boundary", default="auto", show_default=True, metavar="KIND", help="The kind of wall.")
@click.option("--driver", help="A driver by name, instead of the boundary's first that works.")
@click.option("--only", multiple=True, metavar="GLOB", help="Probes by id or control, such as 'net.*'; repeatable.")
@click.option("--list", "listing", is_flag=True, help="List the probes and run nothing.")
@click.option("--verbose", "-v", is_flag=True, help="Show every probe with its evidence.")
@json_option
def command(
    *, boundary: str, driver: str | None, only: tuple[str, ...], listing: bool, verbose: bool, as_json: bool
) -> int:
    """Run hostile programs against the walls, each first where it must succeed, then inside.

    Exits with 0 when nothing escaped and every control was proven, 1 when something escaped, 3 when
    nothing escaped but a control has no probe that could be proven here.
    """
    from jubako.probes import run_probes, select_probes, to_document
    from jubako.probes.table import listing_lines, report_lines

    if listing:
        chosen = select_probes(only)
        if as_json:
            found = [{"id": item.id, "control": item.control, "title": item.title} for item in chosen]
            click.echo(json.dumps({"probes": found}, indent=2))
        else:
            for line in listing_lines(chosen):
                click.echo(line)
        return 0
    with _progress(quiet=as_json) as advance:
        report = run_async(run_probes, boundary, driver=driver, only=only, on_progress=advance)
    if as_json:
        click.echo(json.dumps(to_document(report), indent=2))
    else:
        for line, verdict in report_lines(report, verbose=verbose, width=terminal_width()):
            click.echo(click.style(line, fg=_COLORS[verdict]) if verdict else line, color=colored())
    return report.exit_status


@contextmanager
def _progress(*, quiet: bool) -> Generator[Callable[[ProbeResult, int, int], None] | None]:
    """Yield what moves a bar on standard error, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("probes"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(result: ProbeResult, number: int, total: int) -> None:
            bar.update(task, completed=number, total=total, description=result.id)

        yield advance
