"""``jubako doctor``: what this machine can do."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from jubako._lib.text import printable
from jubako.cli._options import colored, json_option, run_async

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jubako.runtime import DoctorReport, DriverHealth

__all__ = ["command"]

_COLORS = (("enforced", "green"), ("partial", "yellow"), ("unenforced", "red"))


@click.command("doctor")
@json_option
def command(*, as_json: bool) -> int:
    """List the drivers, their features, how each control of the default policy holds, and remedies.

    Exits with 1 when no driver here can launch the default policy.
    """
    from jubako.runtime import async_doctor

    report = run_async(async_doctor)
    if as_json:
        click.echo(json.dumps({"ok": report.ok, **dataclasses.asdict(report)}, indent=2))
    else:
        for line in _lines(report):
            click.echo(line, color=colored())
    return 0 if report.ok else 1


def _lines(report: DoctorReport) -> Iterator[str]:
    yield f"jubako {report.jubako}, Python {report.python}, {report.kernel} {report.machine}"
    yield f"state: {printable(report.state_dir)}"
    for driver in report.drivers:
        yield ""
        yield from _driver(driver)
    yield ""
    yield (
        _style("ready: the default policy can be enforced here", "green")
        if report.ok
        else _style("not ready: no driver here can enforce the default policy", "red")
    )


def _driver(driver: DriverHealth) -> Iterator[str]:
    color, word = ("green", "works") if driver.usable else ("red", "not usable")
    kind = f"{driver.boundary} boundary" if driver.boundary else "boundary unknown"
    yield _style(f"{driver.name} ({kind}): {word}", color) + (f", version {driver.version}" if driver.version else "")
    if driver.features:
        yield f"  features: {', '.join(driver.features)}"
    for reason in driver.reasons:
        yield f"  note: {printable(reason.text)}"
        if reason.remedy:
            yield f"    remedy: {printable(reason.remedy)}"
    if driver.controls:
        yield "  controls of the default policy:"
    for control in driver.controls:
        level = _style(f"{control.level:10}", dict(_COLORS)[control.level])
        yield f"    {level} {control.control:30} {printable(control.mechanism)}"
        if control.reason:
            yield f"{'':15} {'':30} why: {printable(control.reason)}"
        if control.remedy:
            yield f"{'':15} {'':30} remedy: {printable(control.remedy)}"


def _style(text: str, color: str) -> str:
    return click.style(text, fg=color)
