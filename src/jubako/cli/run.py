"""``jubako run``: a file, a piece of code or a command in a fresh sandbox."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import click

from jubako._lib.text import printable
from jubako._lib.units import format_seconds
from jubako.boundary.contract import BoundaryKind
from jubako.cli._files import Upload, parse_uploads, upload
from jubako.cli._options import SecondsType, boundary_options, json_option, preload_option, run_async
from jubako.cli._stdio import Output, read_input
from jubako.errors import InvalidRequestError, JubakoError
from jubako.runtime import AsyncSandbox
from jubako.runtime.arguments import as_policy
from jubako.runtime.languages import (
    LANGUAGES,
    WASM_SUFFIX,
    language_for_file,
    language_of_program,
    require_wasm,
)
from jubako.runtime.result import RunResult

if TYPE_CHECKING:
    from jubako.boundary.contract import ExitStatus
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
class _Program:
    """What to run: code, a host file that is copied in first, or a command. The sandbox says how to start it."""

    code: str | None = None
    source: Path | None = None
    language: str | None = None
    words: tuple[str, ...] = ()

    def argv(self, box: AsyncSandbox) -> tuple[str, ...]:
        """Return the argument vector. Raises InvalidRequestError where the sandbox can't run it."""
        if self.code is not None:
            return (*box.command(code=self.code, language=self.language), *self.words)
        if self.source is not None:
            return (*box.command(file=self.source.name, language=self.language), *self.words)
        return self.words

    def preloaded(self, box: AsyncSandbox, argv: tuple[str, ...]) -> bool:
        """Whether it starts as a fork of the interpreter that has imported modules."""
        spoken = language_of_program(argv[0]) if self.code is not None or self.source is not None else None
        return bool(box.preload) and spoken is not None and spoken.preloadable


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What to do, checked as far as it can be before anything starts."""

    box: AsyncSandbox
    program: _Program
    uploads: tuple[Upload, ...]
    env: dict[str, str]
    cwd: str | None
    timeout: float | None
    as_json: bool
    raw: bool


@click.command("run", cls=_RunCommand, context_settings={"allow_interspersed_args": False})
@boundary_options
@click.option("-c", "code", metavar="CODE", help="Run this code instead of a file.")
@click.option("--language", type=click.Choice([*LANGUAGES, "javascript"]), help="The code's; a file's ending tells it.")
@click.option("--timeout", type=SecondsType(), help="Time for the program, such as 90, 5m or 250ms.")
@click.option("--env", "variables", multiple=True, metavar="K=V", help="A variable for the program; may be repeated.")
@click.option("--file", "files", multiple=True, metavar="SRC[:DEST]", help="A file or directory to copy in first.")
@click.option("--cwd", help="Where the program starts; the workspace without.")
@click.option("--name", help="A name for the sandbox.")
@preload_option
@click.option("--from", "origin", metavar="SNAPSHOT", help="Go on from a snapshot, by name or digest.")
@click.option("--raw", is_flag=True, help="On a terminal, pass output through as it is, escape sequences included.")
@json_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="FILE [ARGS]... | -- CMD [ARGS]...")
@click.pass_context
def command(ctx: click.Context, /, **options: object) -> int:
    """Run a file, a piece of code (-c) or a command (--) in a fresh sandbox, and remove it afterwards.

    Standard input, output and error output are the program's. The exit status is the program's own;
    125 means that the sandbox could not be made, 126 and 127 that the program could not be started,
    124 that its time ran out, 137 that a limit killed it, 128 + n that signal n did.

    A FILE that ends in .wasm runs behind the boundary wasm.
    """
    del options
    job = _job(**ctx.params)
    return run_async(_supervise, job)


def _job(
    *,
    code: str | None,
    language: str | None,
    timeout: float | None,
    variables: tuple[str, ...],
    files: tuple[str, ...],
    cwd: str | None,
    raw: bool,
    as_json: bool,
    words: tuple[str, ...],
    dashed: bool,
    **terms: Any,
) -> _Job:
    program = _program(code, language, words, dashed=dashed)
    if program.source is not None and program.source.suffix == WASM_SUFFIX and not language:
        if terms["boundary"] == "auto" and terms["origin"] is None and terms["driver"] is None:
            terms["boundary"] = str(BoundaryKind.WASM)
        elif terms["boundary"] != "auto":
            require_wasm(program.source.name, terms["boundary"])
    return _Job(
        box=_box(timeout=timeout, **terms),
        program=program,
        uploads=parse_uploads(files),
        env=_variables(variables),
        cwd=cwd,
        timeout=timeout,
        as_json=as_json,
        raw=raw,
    )


def _box(
    *,
    boundary: str,
    driver: str | None,
    template: str,
    policy: str | None,
    name: str | None,
    preload: tuple[str, ...],
    origin: str | None,
    timeout: float | None,
) -> AsyncSandbox:
    if origin is not None:
        if preload or driver is not None or (boundary, template) != ("auto", "host"):
            message = "--from takes boundary, driver, template and preloaded modules from the snapshot"
            raise click.UsageError(message)
        return AsyncSandbox.restore(origin, policy=policy, name=name)
    terms = as_policy(policy)
    if policy is None and timeout is not None:
        # Who gives no policy file decides here and now; with a file, the file has the last word.
        longest = max(timeout, terms.time.exec)
        time = terms.time.model_copy(update={"exec": longest, "sandbox": max(terms.time.sandbox, longest + 60)})
        terms = terms.model_copy(update={"time": time})
    return AsyncSandbox(boundary=boundary, driver=driver, policy=terms, template=template, name=name, preload=preload)


def _program(code: str | None, language: str | None, words: tuple[str, ...], *, dashed: bool) -> _Program:
    if dashed and (code is not None or language is not None):
        message = "-- CMD goes with neither -c nor --language"
        raise click.UsageError(message)
    if code is not None:
        return _Program(code=code, language=language, words=words)
    if not words:
        message = "nothing to run: give FILE, -c CODE or -- CMD"
        raise click.UsageError(message)
    if dashed:
        return _Program(words=words)
    source = Path(words[0])
    if source.suffix != WASM_SUFFIX:
        language_for_file(source.name, language)  # asked again inside, where it is known what there is
    if not source.is_file():
        msg = f"{printable(words[0])} is not a file"
        raise InvalidRequestError(msg, hint="a program that is inside goes after --", details={"path": words[0]})
    return _Program(source=source, language=language, words=words[1:])


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
    async with job.box as box:
        argv = job.program.argv(box)
        for item in job.uploads:
            await upload(box.files, item)
        source = job.program.source
        if source is not None:
            await upload(box.files, Upload(source, f"{box.policy.files.workspace}/{source.name}"))
        preloaded = job.program.preloaded(box, argv)
        async with await box.exec(
            argv, timeout=job.timeout, env=job.env, cwd=job.cwd, stdin=True, preloaded=preloaded
        ) as process:
            if job.as_json:
                return await _as_json(box, process)
            status = await process.forward(Output(1, raw=job.raw).write, Output(2, raw=job.raw).write, read_input())
        _explain_end(status, job.timeout or box.policy.time.exec)
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


def _explain_end(status: ExitStatus, seconds: float) -> None:
    """Say on standard error what the exit status can't."""
    if status.message:
        click.echo(f"jubako: {printable(status.message)}", err=True)
    if status.timed_out:
        click.echo(f"jubako: time.exec: the program ran over its {format_seconds(seconds)} and was killed", err=True)
    for control in sorted(status.limits - {"time.exec"}):
        click.echo(f"jubako: {control}: the program ran into this limit", err=True)
