"""The command group, and how failures are told."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

import click

from jubako._lib.text import printable
from jubako._version import __version__
from jubako.cli._options import Settings
from jubako.errors import EXIT_JUBAKO, JubakoError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["COMMANDS", "app", "run"]

COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "run": "Run a file, a piece of code or a command in a fresh sandbox.",
        "explain": "Show the card of a sandbox before anything runs.",
        "doctor": "Say what this machine can enforce, and what to do about the rest.",
        "probe": "Run hostile programs inside and show that they are contained.",
        "snapshot": "Write prepared sandboxes down, to go on from by run --from.",
        "audit": "Verify the ledger of events.",
    }
)
"""Verb and help line. The verb's module is ``jubako.cli.<verb>`` and holds its click command as ``command``."""

_INTERRUPTED: Final = 130
_PIPE_CLOSED: Final = 141


class _Verbs(click.Group):
    """Commands that are imported when they are called, so that each pays only for itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        return cast("click.Command", import_module(f"jubako.cli.{cmd_name}").command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="jubako", message="%(prog)s %(version)s")
def app() -> None:
    """Run untrusted code behind the right boundary.

    jubako's own failures exit with 125 (the sandbox could not be made) or 2 (a wrong policy or
    argument); `run` otherwise exits as the program did. JUBAKO_DEBUG=1 shows tracebacks.
    """


def run(arguments: list[str]) -> int:
    """Run one command line and return the exit status; failures are told, not raised."""
    settings = Settings()
    try:
        status: object = app.main(arguments, prog_name="jubako", standalone_mode=False, obj=settings)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        if settings.json:
            _print_json("usage", error.format_message(), "jubako --help", {})
        else:
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except SystemExit:  # click's way to say that whoever read our output is gone
        return _PIPE_CLOSED
    except Exception as error:  # noqa: BLE001  # the last line of defence; it is told below and ends the process
        return _tell(error, settings)
    return status if isinstance(status, int) else 0


def _innermost(error: BaseException) -> BaseException:
    """Return the one error that a task group wrapped."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = cast("tuple[BaseException, ...]", error.exceptions)
    return _innermost(inner[0]) if len(inner) == 1 else cast("BaseException", error)


def _tell(failure: Exception, settings: Settings) -> int:
    error = _innermost(failure)
    if isinstance(error, BrokenPipeError):
        # Whoever read our output is gone; the interpreter's last flush must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    if os.environ.get("JUBAKO_DEBUG") == "1":
        import traceback

        traceback.print_exception(failure)
    details: Mapping[str, object] = {}
    if isinstance(error, JubakoError):
        code, message, hint, details, status = error.code, error.message, error.hint, error.details, error.exit_status
    else:
        code, message, status = "internal-error", f"{type(error).__name__}: {error}", EXIT_JUBAKO
        hint = "this is a bug in jubako; JUBAKO_DEBUG=1 shows where"
    if settings.json:
        _print_json(code, message, hint, details)
    else:
        sys.stdout.flush()
        click.echo(f"jubako: {code}: {printable(message, 8192, keep=chr(10))}", err=True)
        if hint:
            click.echo(f"hint: {printable(hint, 2048)}", err=True)
    return status


def _print_json(code: str, message: str, hint: str, details: Mapping[str, object]) -> None:
    error = {"code": code, "message": message, "hint": hint, "details": dict(details)}
    click.echo(json.dumps({"error": error}, default=str))
