"""``jubako audit``: the ledger of events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jubako._lib.text import printable
from jubako.cli._options import json_option

if TYPE_CHECKING:
    from jubako.sinks import Head, LedgerReport

__all__ = ["command"]


@click.group("audit")
def command() -> None:
    """Verify the ledger of events."""


@command.command("verify")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--head", "anchor", metavar="COUNT:HASH", help="A head kept elsewhere, which the ledger must contain.")
@json_option
def verify(path: Path | None, anchor: str | None, *, as_json: bool) -> int:
    """Say whether the ledger at PATH (this user's without one) is as it was written.

    Finds any change, deletion, insertion and reordering, and prints the head to keep for next time.
    Exits with 1 when something is wrong.
    """
    from jubako._lib.paths import state_dir
    from jubako.sinks import verify_ledger

    if path is None:
        from jubako.runtime import LEDGER

        path = state_dir() / LEDGER
    report = verify_ledger(path, expect_head=_head(anchor))
    if as_json:
        click.echo(json.dumps(_document(report), indent=2))
    else:
        _print(report)
    return 0 if report.ok else 1


def _head(anchor: str | None) -> Head | None:
    if anchor is None:
        return None
    from jubako.sinks import Head

    count, _, digest = anchor.partition(":")
    if not count.isdecimal() or not digest:
        message = "write it as COUNT:HASH, as a verification prints it"
        raise click.BadParameter(message, param_hint="--head")
    return Head(int(count), digest)


def _document(report: LedgerReport) -> dict[str, object]:
    problem = report.problem
    return {
        "ok": report.ok,
        "path": str(report.path),
        "events": report.events,
        "head": {"count": report.head.count, "hash": report.head.hash},
        "problem": {"line": problem.line, "kind": str(problem.kind), "text": problem.text} if problem else None,
        "pending": report.pending,
        "gaps": report.gaps,
        "not_checked": list(report.not_checked),
    }


def _print(report: LedgerReport) -> None:
    place = printable(str(report.path))
    if report.problem is None:
        click.echo(f"{place}: intact, {report.events} events")
    else:
        line = f"line {report.problem.line}: " if report.problem.line else ""
        click.echo(f"{place}: {report.problem.kind}: {line}{printable(report.problem.text)}")
        click.echo(f"intact before that: {report.events} events")
    click.echo(f"head: {report.head.count}:{report.head.hash}")
    if report.gaps:
        click.echo(f"missing by their own numbers: {report.gaps} events")
    for note in report.not_checked:
        click.echo(f"not checked: {note}")
