"""Tables and progress: rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Column", "figure", "printable", "progress", "table"]

_LINES: Final = 10

Column = tuple[str, str]
"""A heading and its alignment: "left" or "right"."""


def printable(text: str) -> str:
    """Return the text without anything that a terminal would obey: it may come from inside a sandbox."""
    return "".join(char if char.isprintable() else " " for char in text)


def figure(value: float) -> str:
    """Return a number with three significant digits or so; "-" for NaN."""
    if value != value:  # noqa: PLR0124  # NaN
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout, in columns as wide as their content."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(title, columns, cells)
        return
    widths = [max(len(row[at]) for row in [[name for name, _ in columns], *cells]) for at in range(len(columns))]
    print(f"\n{title}")
    for row in [[name for name, _ in columns], ["-" * width for width in widths], *cells]:
        words = [
            cell.rjust(width) if side == "right" else cell.ljust(width)
            for cell, width, (_, side) in zip(row, widths, columns, strict=True)
        ]
        print("  ".join(words).rstrip())


def _rich_table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, title_justify="left")
    for name, side in columns:
        shown.add_column(name, justify="right" if side == "right" else "left")
    colours = {"contained": "green", "passed": "green", "ESCAPED": "bold red", "FAILED": "bold red"}
    for row in rows:
        shown.add_row(*(Text(cell, style=colours.get(cell, "")) for cell in row))
    Console().print(shown)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """Yield a function to call once a finished step, with a few words on how things stand."""
    if sys.stderr.isatty():
        with _bar(title, total) as step:
            yield step
        return
    done = 0

    def plain(status: str) -> None:
        nonlocal done
        done += 1
        if done == total or (done * _LINES) // total != ((done - 1) * _LINES) // total:
            print(f"{title}: {done}/{total} {printable(status)}".rstrip(), file=sys.stderr, flush=True)

    yield plain


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, status="")
        yield lambda status: bar.update(task, advance=1, status=printable(status))
