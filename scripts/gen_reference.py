"""Generates docs/reference/cli.md and errors.md from the command and the errors themselves.

``--check`` changes nothing and fails when a page isn't what would be written.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jubako import errors
from jubako.cli.app import COMMANDS, app
from jubako.errors import JubakoError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/reference"
NOTE = "<!-- Written by scripts/gen_reference.py: do not edit. -->"

CLI_HEAD = f"""# The command

{NOTE}

`jubako VERB --help` shows the same. With `--json`, failures are JSON on standard output too:
`{{"error": {{"code", "message", "hint", "details"}}}}`, with the codes of [errors](errors.md). Without it a failure is
one line `jubako: CODE: MESSAGE` on standard error and, where there is one, a line `hint: ...`. `JUBAKO_DEBUG=1`
adds a traceback; `NO_COLOR` turns colours off.

## Exit status

| Status | Meaning |
|---|---|
| the program's own | `run`: the program ended by itself |
| 124 | `run`: the program ran over its time and was killed with all its children |
| 125 | jubako failed: the sandbox could not be made, or was lost |
| 126, 127 | `run`: the program may not be executed, does not exist |
| 128 + n | `run`: signal n ended the program; jubako itself was ended by signal n (130 for Ctrl-C) |
| 137 | `run`: a limit killed the program |
| 141 | whoever read the output is gone |
| 1 | `explain`: a launch would be refused; `doctor`: nothing here can enforce the default policy; \
`audit verify`: the ledger was changed; `probe`: something escaped |
| 2 | a wrong argument or policy; nothing was started |
| 3 | `probe`: nothing escaped, but a control has no probe that could be proven here |

On a terminal, `run` shows control characters in the program's output as escapes such as `\\e`, so that code inside
can't drive the terminal; `--raw` lets them through. Output to a pipe or file is passed on byte by byte.
"""

ERRORS_HEAD = f"""# Errors

{NOTE}

All errors of jubako are below `jubako.JubakoError` and live in `jubako.errors`. `code` is stable: match on it, not on
the message. `retryable` says whether the same call can succeed later without a change. `hint` says what you can do,
`details` holds facts for programs. `exit_status` is what the command exits with. Some are also the language's own:
`GuestFileNotFoundError` is a `FileNotFoundError`, `ExecTimeoutError` a `TimeoutError`.

A program that fails is not an error but a result, unless you ask for `check=True`.

| Code | Class | Below | Retryable | Exit | Meaning |
|---|---|---|---|---|---|
"""


def one_line(text: str | None) -> str:
    """Return the text on one line, fit for a table."""
    return " ".join((text or "").replace("``", "`").split()).replace("|", "\\|")


def verbs(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the full name and the command of every verb below."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from verbs(found, f"{name} {child}")
    else:
        yield name, command


def verb_page(name: str, command: click.Command) -> str:
    """Return the section of one verb."""
    context = click.Context(command, info_name=name)
    usage = command.collect_usage_pieces(context)
    text = inspect.cleandoc(command.help or "")
    lines = [f"## {name}", "", f"`{name} {' '.join(usage)}`", "", text, "", "| Option | Meaning |", "|---|---|"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            lines.append(f"| `{one_line(record[0])}` | {one_line(record[1])} |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """Return the page about the command."""
    summary = "\n".join(f"| `jubako {verb}` | {text} |" for verb, text in COMMANDS.items())
    table = f"| Verb | What it does |\n|---|---|\n{summary}\n| `jubako --version` | The version. |\n"
    head = f"{CLI_HEAD}\n## Verbs\n\n{table}"
    return "\n".join([head, *(verb_page(name, command) for name, command in verbs(app, "jubako"))])


def error_rows(kind: type[JubakoError]) -> Iterator[str]:
    """Yield the table's rows for a class and all below it."""
    below = ", ".join(f"`{parent.__name__}`" for parent in kind.__bases__)
    meaning = one_line((inspect.getdoc(kind) or "").split("Attributes:")[0])
    again = "yes" if kind.retryable else "no"
    yield f"| `{kind.code}` | `{kind.__name__}` | {below} | {again} | {kind.exit_status} | {meaning} |"
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from error_rows(child)


def errors_page() -> str:
    """Return the page about errors."""
    return ERRORS_HEAD + "\n".join(error_rows(JubakoError)) + "\n"


def main() -> int:
    """Write the pages, or with ``--check`` compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is out of date")
    check = parser.parse_args().check
    stale = 0
    for name, text in (("cli.md", cli_page()), ("errors.md", errors_page())):
        page = PAGES / name
        if check and (not page.exists() or page.read_text() != text):
            print(f"{page.relative_to(ROOT)} is out of date: run scripts/gen_reference.py")
            stale = 1
        elif not check:
            page.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main())
