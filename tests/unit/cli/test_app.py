"""The command line as far as it starts nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from jubako import __version__
from jubako.cli import main
from jubako.cli._files import Upload, parse_uploads
from jubako.cli._options import SecondsType
from jubako.cli.app import COMMANDS, app, run
from jubako.cli.run import command as run_command
from jubako.errors import InvalidRequestError, JubakoError, LaunchError

if TYPE_CHECKING:
    from pathlib import Path


def test_version_imports_nothing_but_the_command() -> None:
    code = (
        "import sys; from jubako.cli import main; status = main(['--version']);"
        "print(status, [name for name in sys.modules if name.startswith(('click', 'jubako'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == f"jubako {__version__}\n0 ['jubako._version', 'jubako', 'jubako.cli']\n"


def test_module_is_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "jubako", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"jubako {__version__}\n"


def test_help_lists_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in COMMANDS)
    assert main(["--help", "--version"]) == 0


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_each_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    if app.get_command(click.Context(app), verb) is None:
        pytest.fail(f"{verb} is listed and absent")
    assert main([verb, "--help"]) == 0
    assert "Usage: jubako" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "No such command"),
        (["run"], "nothing to run"),
        (["run", "-c", "1", "--", "ls"], "goes with neither"),
        (["run", "--language", "bash", "--", "ls"], "goes with neither"),
        (["run", "--timeout", "soon", "-c", "1"], "not a time"),
        (["run", "--timeout", "0", "-c", "1"], "above 0"),
        (["run", "--env", "NAME", "-c", "1"], "K=V"),
        (["run", "--env", "=x", "-c", "1"], "K=V"),
        (["run", "--language", "cobol", "-c", "1"], "cobol"),
        (["audit", "verify", "--head", "7"], "COUNT:HASH"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert shown.out == ""


def test_usage_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "usage"
    assert "nothing to run" in error["message"]


@pytest.mark.usefixtures("empty_directory")
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["run", "absent.py"], "invalid-request", "absent.py is not a file"),
        (["run", "Makefile"], "invalid-request", "doesn't say which language"),
        (["run", "--file", "absent", "-c", "1"], "invalid-request", "no such file or directory"),
        (["run", "--policy", "absent.toml", "-c", "1"], "invalid-policy", "absent.toml"),
        (["explain", "--boundary", "proces"], "unknown-driver", "did you mean 'process'?"),
        (["audit", "verify", "absent.jsonl"], "ledger-error", "absent.jsonl"),
    ],
)
def test_own_failures_are_told_in_one_line_and_a_hint(
    arguments: list[str], code: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(arguments)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"jubako: {code}: ")
    assert told in shown.err
    assert "Traceback" not in shown.err
    verb, *rest = arguments
    flagged = [verb, "verify", "--json", rest[1]] if verb == "audit" else [verb, "--json", *rest]
    assert run(flagged) == status
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out)["error"]["code"] == code


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failing(error: BaseException) -> click.Command:
    @click.command("doctor")
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (
            LaunchError("no walls\x1b[2J", hint="try again"),
            125,
            "jubako: launch-failed: no walls\\e[2J\nhint: try again\n",
        ),
        (ExceptionGroup("g", [LaunchError("inner")]), 125, "jubako: launch-failed: inner\n"),
        (RuntimeError("surprise"), 125, "jubako: internal-error: RuntimeError: surprise\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
    ],
)
def test_any_failure_has_its_status_and_words(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jubako.cli.doctor.command", failing(error))
    assert run(["doctor"]) == status
    assert capsys.readouterr().err.startswith(told)
    monkeypatch.setenv("JUBAKO_DEBUG", "1")
    assert run(["doctor"]) == status
    assert ("Traceback" in capsys.readouterr().err) == bool(told)


def test_a_closed_pipe_is_not_a_failure_of_ours() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "jubako", "explain", "--help"]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")


def parsed(arguments: list[str]) -> tuple[tuple[str, ...], bool]:
    context = run_command.make_context("run", list(arguments))
    return context.params["words"], context.params["dashed"]


@pytest.mark.parametrize(
    ("arguments", "words", "dashed"),
    [
        (["f.py", "a", "--b", "--", "c"], ("f.py", "a", "--b", "--", "c"), 0),
        (["--", "ls", "-l"], ("ls", "-l"), 1),
        (["--raw", "--", "--odd"], ("--odd",), 1),
        (["-c", "code", "x", "-c"], ("x", "-c"), 0),
        (["--", "sh", "--", "x"], ("sh", "--", "x"), 1),
        (["--"], (), 0),
    ],
)
def test_what_comes_after_two_dashes_is_a_command(arguments: list[str], words: tuple[str, ...], dashed: int) -> None:
    assert parsed(arguments) == (words, bool(dashed))


def test_seconds_as_people_write_them() -> None:
    kind = SecondsType()
    assert [kind.convert(text, None, None) for text in ("90", "1.5", "5m", "250ms")] == [90, 1.5, 300, 0.25]
    with pytest.raises(click.BadParameter):
        kind.convert("x", None, None)


def test_uploads(tmp_path: Path) -> None:
    plain, odd = tmp_path / "data.csv", tmp_path / "a:b"
    plain.write_text("x")
    odd.mkdir()
    assert parse_uploads([str(plain), f"{plain}:in/place.csv", str(odd), f"{odd}:there"]) == (
        Upload(plain, "data.csv"),
        Upload(plain, "in/place.csv"),
        Upload(odd, "a:b"),
        Upload(odd, "there"),
    )
    with pytest.raises(InvalidRequestError):
        parse_uploads([f"{tmp_path}/absent:there"])


def test_every_error_has_an_exit_status_that_the_command_can_use() -> None:
    def below(kind: type[JubakoError]) -> list[type[JubakoError]]:
        return [kind, *(item for child in kind.__subclasses__() for item in below(child))]

    for kind in below(JubakoError):
        assert kind.exit_status in {1, 2, 124, 125, 137}, kind
