"""What several verbs share: options, output, the way into the event loop."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from jubako._lib.units import parse_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = [
    "SecondsType",
    "Settings",
    "boundary_options",
    "colored",
    "json_option",
    "preload_option",
    "run_async",
    "terminal_width",
]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(slots=True)
class Settings:
    """What must be known when a verb fails."""

    json: bool = False


class SecondsType(click.ParamType[float]):
    """Seconds as people write them: ``90``, ``1.5``, ``5m``, ``250ms``."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds; a usage error for anything that isn't a time above 0."""
        try:
            seconds = parse_seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not isinstance(seconds, (int, float)) or seconds <= 0:
            self.fail("must be above 0", param, ctx)
        return float(seconds)


def _note_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:  # noqa: FBT001  # click's callback
    del param
    if isinstance(ctx.obj, Settings):
        ctx.obj.json = value
    return value


def json_option(function: F) -> F:
    """Add ``--json``; failures are then JSON on standard output too."""
    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=_note_json, help="Print JSON, failures included."
    )(function)


def boundary_options(function: F) -> F:
    """Add the options that choose the boundary and the policy."""
    for option in (
        click.option("--template", default="host", show_default=True, help="The root file system."),
        click.option(
            "--policy",
            metavar="FILE|PRESET",
            help="The policy: a TOML or YAML file, or a preset; safe defaults without.",
        ),
        click.option("--driver", help="A driver by name, instead of the boundary's first that works."),
        click.option(
            "--boundary",
            default="auto",
            show_default=True,
            metavar="KIND",
            help="auto, wasm, process, gvisor, ... : the kind of wall.",
        ),
    ):
        function = option(function)
    return function


def _modules(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    del ctx, param
    return tuple(name.strip() for item in value for name in item.split(",") if name.strip())


def preload_option(function: F) -> F:
    """Add ``--preload``."""
    return click.option(
        "--preload",
        multiple=True,
        metavar="M[,M]...",
        callback=_modules,
        help="Python modules to import once, before the first program; may be repeated.",
    )(function)


def run_async(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the asynchronous function returns."""
    import anyio

    return anyio.run(partial(function, *args, **kwargs))


def colored() -> bool:
    """Whether standard output is a terminal that wants colours."""
    import os

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def terminal_width() -> int:
    """Return the columns of the terminal, 100 at most and where there is none."""
    import shutil

    return min(shutil.get_terminal_size((100, 24)).columns, 100)
