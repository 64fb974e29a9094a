"""``jubako run``: a file, a piece of code or a command in a fresh sandbox."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from jubako._lib.text import printable
from jubako._lib.units import format_seconds
from jubako.cli._files import Upload, parse_uploads, upload
from jubako.cli._options import SecondsType, boundary_options, json_option, run_async
from jubako.cli._stdio import Output, read_input
from jubako.errors import InvalidRequestError, JubakoError
from jubako.runtime import AsyncSandbox
from jubako.runtime.arguments import as_policy
from jubako.runtime.languages import LANGUAGES, language_of_file, language_of_name
from jubako.runtime.result import RunResult

if TYPE_CHECKING:
    from jubako.boundary.contract import ExitStatus
    from jubako.policy import Policy
    from jubako.runtime import AsyncProcess

__all__ = ["command"]

_SIGNAL_BASE: Final = 128


class _RunCommand(click.Command):
    """Tells ``-- CMD`` from ``FILE``: click itself drops the two dashes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        words = ctx.params["words"]
        before = len(given) - len(words)
        ctx.params["dashed"] = bool(words) and before > 0 and given[before - 1] == "--"
        return rest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What to run, checked as far as it can be before anything starts."""

    boundary: str
    driver: str | None
    template: str
    policy: Policy
    name: str | None
    argv: tuple[str, ...]
    uploads: tuple[Upload, ...]
    env: dict[str, str]
    cwd: str | None
    timeout: float | None
    as_json: bool
    raw: bool


@click.command("run", cls=_RunCommand, context_settings={"allow_interspersed_args": False})
@boundary_options
@click.option("-c", "code", metavar="CODE", help="Run this code instead of a file.")
@click.option("--language", type=click.Choice(list(LANGUAGES)), help="The code's language; a file's ending tells it.")
@click.option("--timeout", type=SecondsType(), help="Time for the program, such as 90, 5m or 250ms.")
@click.option("--env", "variables", multiple=True, metavar="K=V", help="A variable for the program; may be repeated.")
@click.option("--file", "files", multiple=True, metavar="SRC[:DEST]", help="A file or directory to copy in first.")
@click.option("--cwd", help="Where the program starts; the workspace without.")
@click.option("--name", help="A name for the sandbox.")
@click.option("--raw", is_flag=True, help="On a terminal, pass output through as it is, escape sequences included.")
@json_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="FILE [ARGS]... | -- CMD [ARGS]...")
@click.pass_context
def command(ctx: click.Context, /, **options: object) -> int:
    """Run a file, a piece of code (-c) or a command (--) in a fresh sandbox, and remove it afterwards.

    Standard input, output and error output are the program's. The exit status is the program's own;
    125 means that the sandbox could not be made, 126 and 127 that the program could not be started,
    124 that its time ran out, 137 that a limit killed it, 128 + n that signal n did.
    """
    del options
    job = _job(**ctx.params)
    return run_async(_supervise, job)


def _job(
    *,
    boundary: str,
    driver: str | None,
    policy: str | None,
    template: str,
    code: str | None,
    language: str | None,
    timeout: float | None,
    variables: tuple[str, ...],
    files: tuple[str, ...],
    cwd: str | None,
    name: str | None,
    raw: bool,
    as_json: bool,
    words: tuple[str, ...],
    dashed: bool,
) -> _Job:
    terms = as_policy(policy)
    if policy is None and timeout is not None:
        # Who gives no policy file decides here and now; with a file, the file has the last word.
        longest = max(timeout, terms.time.exec)
        time = terms.time.model_copy(update={"exec": longest, "sandbox": max(terms.time.sandbox, longest + 60)})
        terms = terms.model_copy(update={"time": time})
    argv, script = _program(code, language, words, terms.files.workspace, dashed=dashed)
    return _Job(
        boundary=boundary,
        driver=driver,
        template=template,
        policy=terms,
        name=name,
        argv=argv,
        uploads=(*parse_uploads(files), *script),
        env=_variables(variables),
        cwd=cwd,
        timeout=timeout,
        as_json=as_json,
        raw=raw,
    )


def _program(
    code: str | None, language: str | None, words: tuple[str, ...], workspace: str, *, dashed: bool
) -> tuple[tuple[str, ...], tuple[Upload, ...]]:
    """Return the argument vector, and the script to copy in where there is one."""
    if dashed and (code is not None or language is not None):
        message = "-- CMD goes with neither -c nor --language"
        raise click.UsageError(message)
    if code is not None:
        return (*language_of_name(language or "python").command(code), *words), ()
    if not words:
        message = "nothing to run: give FILE, -c CODE or -- CMD"
        raise click.UsageError(message)
    if dashed:
        return words, ()
    source = Path(words[0])
    spoken = language_of_name(language) if language else language_of_file(source.name)
    if spoken is None:
        msg = f"the name {printable(source.name)} doesn't say which language it is"
        raise InvalidRequestError(msg, hint=f"pass --language {'|'.join(LANGUAGES)}, or -- CMD for a program inside")
    if not source.is_file():
        msg = f"{printable(words[0])} is not a file"
        raise InvalidRequestError(msg, hint="a program that is inside goes after --", details={"path": words[0]})
    inside = f"{workspace}/{source.name}"
    return (spoken.program, inside, *words[1:]), (Upload(source, inside),)


def _variables(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [item.partition("=") for item in given]
    for name, mark, _ in pairs:
        if not mark or not name:
            message = "write it as K=V; nothing is taken over from the host"
            raise click.BadParameter(message, param_hint="--env")
    return {name: value for name, _, value in pairs}


async def _supervise(job: _Job) -> int:
    """Run the job; SIGTERM and SIGHUP end it as an interrupt does, with everything cleaned up."""
    ended_by = 0
    status = 0
    wanted = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]

    async def listen() -> None:
        nonlocal ended_by
        with anyio.open_signal_receiver(*wanted) as signals:
            async for number in signals:
                ended_by = number
                tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        status = await _run(job)
        tasks.cancel_scope.cancel()
    return _SIGNAL_BASE + ended_by if ended_by else status


async def _run(job: _Job) -> int:
    async with AsyncSandbox(
        boundary=job.boundary, driver=job.driver, policy=job.policy, template=job.template, name=job.name
    ) as box:
        for item in job.uploads:
            await upload(box.files, item)
        async with await box.exec(job.argv, timeout=job.timeout, env=job.env, cwd=job.cwd, stdin=True) as process:
            if job.as_json:
                return await _as_json(box, process)
            status = await process.forward(Output(1, raw=job.raw).write, Output(2, raw=job.raw).write, read_input())
        _explain_end(status, job)
        return RunResult.of(status, b"", b"", duration=process.age).shell_status


async def _as_json(box: AsyncSandbox, process: AsyncProcess) -> int:
    out, err = bytearray(), bytearray()

    async def take_out(data: bytes) -> None:
        out.extend(data)

    async def take_err(data: bytes) -> None:
        err.extend(data)

    status = await process.forward(take_out, take_err, read_input())
    usage = None
    with suppress(JubakoError):  # figures are an extra; the result is what was asked for
        usage = await box.usage()
    result = RunResult.of(status, bytes(out), bytes(err), duration=process.age, usage=usage)
    card = box.card()
    document = {**result.document(), "sandbox": box.id, "boundary": str(card.boundary.kind),
                "driver": card.boundary.driver, "card": card.digest}  # fmt: skip
    click.echo(json.dumps(document, indent=2))
    return result.shell_status


def _explain_end(status: ExitStatus, job: _Job) -> None:
    """Say on standard error what the exit status can't."""
    if status.message:
        click.echo(f"jubako: {printable(status.message)}", err=True)
    if status.timed_out:
        limit = format_seconds(job.timeout or job.policy.time.exec)
        click.echo(f"jubako: time.exec: the program ran over its {limit} and was killed", err=True)
    for control in sorted(status.limits - {"time.exec"}):
        click.echo(f"jubako: {control}: the program ran into this limit", err=True)
