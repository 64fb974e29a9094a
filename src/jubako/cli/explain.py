"""``jubako explain``: the card, before anything runs."""

from __future__ import annotations

import json

import click

from jubako.cli._options import boundary_options, colored, json_option, run_async, terminal_width

__all__ = ["command"]


@click.command("explain")
@boundary_options
@json_option
def command(boundary: str, driver: str | None, policy: str | None, template: str, *, as_json: bool) -> int:
    """Show which wall a sandbox would have, what the code may touch, and how each control holds here.

    Starts nothing. Exits with 1 when a launch under this policy would be refused.
    """
    from jubako.boundary.card_text import render_text
    from jubako.runtime import async_explain

    card = run_async(async_explain, boundary=boundary, driver=driver, policy=policy, template=template)
    if as_json:
        click.echo(json.dumps(card.document(), indent=2))
    else:
        click.echo(render_text(card, terminal_width(), color=colored()), nl=False, color=colored())
    return 1 if card.refusals else 0
