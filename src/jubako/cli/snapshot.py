"""``jubako snapshot``: prepared sandboxes, written down once and gone on from often."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from jubako._lib.text import printable
from jubako._lib.units import format_size
from jubako.cli._files import Upload, parse_uploads, upload
from jubako.cli._options import boundary_options, json_option, preload_option, run_async

if TYPE_CHECKING:
    from jubako.runtime import AsyncSandbox, Snapshot

__all__ = ["command"]

_SHOWN = 12


@click.group("snapshot")
def command() -> None:
    """Write prepared sandboxes down, to go on from by `jubako run --from NAME`."""


@command.command("create")
@boundary_options
@click.option("--name", help="A name for the snapshot.")
@preload_option
@click.option("--file", "files", multiple=True, metavar="SRC[:DEST]", help="A file or directory to copy in first.")
@click.option("-c", "code", metavar="CODE", help="Python code to run inside before it is written down.")
@json_option
def create(
    boundary: str,
    driver: str | None,
    policy: str | None,
    template: str,
    *,
    name: str | None,
    preload: tuple[str, ...],
    files: tuple[str, ...],
    code: str | None,
    as_json: bool,
) -> None:
    """Make a sandbox, import modules, copy files in, run code, write it down, and remove the sandbox.

    What goes on from it has its files and imported modules, its boundary, and at most its rights.
    """
    from jubako.runtime import AsyncSandbox

    uploads = parse_uploads(files)
    box = AsyncSandbox(boundary=boundary, driver=driver, policy=policy, template=template, preload=preload)
    made = run_async(_create, box, name, uploads, code)
    if as_json:
        click.echo(json.dumps(made.document(), indent=2))
    else:
        click.echo(made.name or made.digest)


async def _create(box: AsyncSandbox, name: str | None, uploads: tuple[Upload, ...], code: str | None) -> Snapshot:
    async with box:
        for item in uploads:
            await upload(box.files, item)
        if code is not None or box.preload:
            # Also without code, so that the modules have been imported, or are known not to be.
            await box.run(code or "pass", check=True)
        return await box.snapshot(name)


@command.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the snapshots of this user, oldest first."""
    found = run_async(_list)
    if as_json:
        click.echo(json.dumps([item.document() for item in found], indent=2))
        return
    for item in found:
        made = item.created.astimezone().strftime("%Y-%m-%d %H:%M")
        words = [item.digest[:_SHOWN], f"{item.name or '-':20}", made, f"{item.boundary:8}",
                 f"{format_size(item.size):>10}", ",".join(item.spec.preload)]  # fmt: skip
        click.echo(printable("  ".join(words).rstrip()))


async def _list() -> list[Snapshot]:
    from jubako.runtime import Runtime

    async with Runtime() as runtime:
        return runtime.snapshots.list()


@command.command("rm")
@click.argument("snapshots", nargs=-1, required=True, metavar="SNAPSHOT...")
@json_option
def remove(snapshots: tuple[str, ...], *, as_json: bool) -> None:
    """Remove snapshots by name or digest; none that a sandbox or another snapshot still needs."""
    run_async(_remove, snapshots)
    if as_json:
        click.echo(json.dumps({"removed": list(snapshots)}))


async def _remove(snapshots: tuple[str, ...]) -> None:
    from jubako.runtime import Runtime

    async with Runtime() as runtime:
        for key in snapshots:
            await runtime.remove_snapshot(key)
