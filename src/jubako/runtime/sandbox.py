"""The sandbox, as callers hold it."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Self

import anyio

from jubako._lib.ids import short_id
from jubako.boundary.contract import Feature
from jubako.errors import InvalidRequestError, JubakoError, SandboxStateError
from jubako.runtime.arguments import as_policy, build_request, build_spec, ttl_seconds
from jubako.runtime.files import AsyncFiles
from jubako.runtime.languages import (
    INLINE_LIMIT,
    LANGUAGES,
    WASM_SUFFIX,
    language_for_file,
    language_of_name,
    language_of_program,
    languages_of_facts,
    require_wasm,
)
from jubako.runtime.lifecycle import SandboxState
from jubako.runtime.process import AsyncProcess
from jubako.runtime.streams import AsyncConnection
from jubako.runtime.supervisor import Runtime
from jubako.runtime.tools import supplied_tools

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from jubako.boundary.card import Card
    from jubako.boundary.contract import ExecRequest, Usage
    from jubako.policy import Policy
    from jubako.runtime.arguments import PolicyLike, Seconds, Terminal
    from jubako.runtime.languages import Language
    from jubako.runtime.managed import ManagedSandbox
    from jubako.runtime.result import RunResult
    from jubako.runtime.snapshots import Snapshot
    from jubako.runtime.tools import ToolLike

    Maker = Callable[[Runtime], Awaitable[ManagedSandbox]]

__all__ = ["AsyncSandbox"]


class AsyncSandbox:
    """One isolated place to run code in. Enter it to make it; leaving it removes every trace.

    Args:
        boundary: Kind of wall, or ``auto`` for the strongest that works on this machine.
        driver: A driver by name, instead of the boundary's first that works.
        policy: What the code may touch: a Policy, a mapping, a file's path or a preset's name.
        template: The root file system; ``host`` is the host's toolchain, read-only.
        name: A name that no other live sandbox of this user has.
        ttl: Seconds until it is destroyed, at most the policy's ``time.sandbox``.
        labels: Free labels for lists and events.
        tools: Host functions that programs inside may call: exactly those that the policy grants by name.
        preload: Python modules to import once; ``run`` starts Python as a fork of what has them.
        runtime: The runtime that makes it. Without one it has its own, which is right for a few sandboxes.

    Raises:
        InvalidPolicyError: The policy is wrong.
        InvalidRequestError: Another argument is.
    """

    def __init__(
        self,
        *,
        boundary: str = "auto",
        driver: str | None = None,
        policy: PolicyLike = None,
        template: str = "host",
        name: str | None = None,
        ttl: Seconds = None,
        labels: Mapping[str, str] | None = None,
        tools: Sequence[ToolLike] = (),
        preload: Sequence[str] = (),
        runtime: Runtime | None = None,
    ) -> None:
        spec = build_spec(
            boundary=boundary,
            driver=driver,
            policy=policy,
            template=template,
            name=name,
            labels=labels,
            preload=preload,
        )
        seconds = ttl_seconds(ttl, spec.policy)
        supplied = supplied_tools(tools, spec.policy)
        self._make: Maker = lambda runtime: runtime.create(spec, ttl=seconds, tools=supplied)
        self._runtime = runtime
        self._stack = AsyncExitStack()
        self._managed: ManagedSandbox | None = None
        self._forked = False

    @classmethod
    def restore(
        cls,
        snapshot: Snapshot | str,
        *,
        policy: PolicyLike = None,
        name: str | None = None,
        ttl: Seconds = None,
        labels: Mapping[str, str] | None = None,
        tools: Sequence[ToolLike] = (),
        runtime: Runtime | None = None,
    ) -> Self:
        """Return a sandbox that goes on from a snapshot once it is entered, with an identity of its own.

        Its random numbers, host name and machine id differ from those of all others. It stands behind
        the same boundary as the snapshot's sandbox and has at most its rights. Entering it raises
        SnapshotNotFoundError or SnapshotIncompatibleError where it can't be restored here.

        Args:
            snapshot: A snapshot, its name, or the beginning of its digest.
            policy: What narrows the rights further; those of the snapshot's sandbox when left out.
            name: A name that no other live sandbox of this user has.
            ttl: Seconds until it is destroyed, at most the policy's ``time.sandbox``.
            labels: Free labels for lists and events.
            tools: Host functions that programs inside may call: exactly those that the policy grants by name.
            runtime: The runtime that makes it. Without one it has its own.
        """
        narrower = as_policy(policy) if policy is not None else None
        box = cls(runtime=runtime)
        box._make = lambda runtime: runtime.restore(  # of this class
            snapshot, policy=narrower, name=name, labels=labels, ttl=ttl, tools=tools
        )
        return box

    async def start(self) -> None:
        """Make the sandbox and start it; whoever calls this calls ``destroy``. Entering does both.

        Raises PolicyNotEnforceableError when a required control would not hold here, and
        DriverUnavailableError, LaunchError or NameTakenError; then nothing is left.
        """
        if self._managed is not None:
            msg = "the sandbox was started before"
            raise SandboxStateError(msg, hint="make a new one", details={"state": str(self.state), "call": "start"})
        if self._runtime is None:
            msg = "start needs a runtime that outlives the call"
            raise SandboxStateError(
                msg, hint="use `async with`, or pass runtime=", details={"state": str(self.state), "call": "start"}
            )
        self._managed = await self._make(self._runtime)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self._runtime is None:
                self._runtime = await stack.enter_async_context(Runtime())
            if not self._forked:
                await self.start()
            self._forked = False
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.destroy()
        finally:
            await self._stack.__aexit__(kind, error, trace)

    @property
    def id(self) -> str:
        """The sandbox's id, as events and records name it."""
        return self._live("id").id

    @property
    def state(self) -> SandboxState:
        """Where it is in its life."""
        return self._managed.lifecycle.state if self._managed is not None else SandboxState.PENDING

    @property
    def expires(self) -> datetime:
        """When it will be destroyed by itself."""
        return self._live("expires").expires

    @property
    def files(self) -> AsyncFiles:
        """The files inside."""
        return AsyncFiles(self._live("files"))

    @property
    def policy(self) -> Policy:
        """What the code may touch."""
        return self._live("policy").planned.plan.spec.policy

    @property
    def preload(self) -> tuple[str, ...]:
        """The modules that Python has imported already where ``run`` starts it."""
        return self._live("preload").planned.plan.spec.preload

    def card(self) -> Card:
        """Return the card: the boundary, what the code may touch, and how far each control holds."""
        return self._live("card").planned.card

    async def run(
        self,
        code: str,
        *,
        language: str = "python",
        timeout: Seconds = None,  # noqa: ASYNC109  # held by the driver on the host, and part of the result
        env: Mapping[str, str] | None = None,
        cwd: str | PurePosixPath | None = None,
        stdin: bytes | str | None = None,
        check: bool = False,
    ) -> RunResult:
        """Run a piece of code to its end and return everything about it.

        Each call is a new program; files stay. A failing or killed program is a result, unless
        ``check`` is true: then it raises CommandFailedError, ExecTimeoutError or OutputLimitError.

        Args:
            code: The source code.
            language: ``python``, ``bash``, ``node``, ``js``, or ``javascript`` for either of these two; the
                interpreter must exist inside.
            timeout: Seconds, at most the policy's ``time.exec``.
            env: Variables besides the sandbox's own.
            cwd: Where it starts; the workspace when left out.
            stdin: Its input; empty when left out.
            check: Whether anything but success is an error.
        """
        managed = self._live("run")
        spoken = language_of_name(language, managed.planned.report.facts)
        inline = len(code) <= INLINE_LIMIT and len(code.encode("utf-8", "surrogateescape")) <= INLINE_LIMIT
        path = f"{self._scratch()}/.run-{short_id(8)}{spoken.suffixes[0]}"
        argv = spoken.command(code) if inline else spoken.file_command(path)
        request = build_request(argv, self.policy, timeout=timeout, env=env, cwd=cwd, stdin=stdin is not None)
        with managed.losing("run"):
            if not inline:
                await self.files.write(path, code)
            result = await self._complete(request, spoken, stdin)
            if not inline:
                with suppress(JubakoError):
                    await self.files.remove(path)
        return result.check() if check else result

    async def run_file(
        self,
        path: str | PurePosixPath,
        *arguments: str,
        language: str | None = None,
        timeout: Seconds = None,  # noqa: ASYNC109  # held by the driver on the host, and part of the result
        env: Mapping[str, str] | None = None,
        cwd: str | PurePosixPath | None = None,
        stdin: bytes | str | None = None,
        check: bool = False,
    ) -> RunResult:
        """Run a file that is inside to its end and return everything about it, as ``run`` does.

        Args:
            path: The file; relative to the workspace.
            *arguments: What the program finds in its argument vector.
            language: How to run it; its name's ending tells it when left out. ``.wasm`` needs the boundary ``wasm``.
            timeout: Seconds, at most the policy's ``time.exec``.
            env: Variables besides the sandbox's own.
            cwd: Where it starts; the workspace when left out.
            stdin: Its input; empty when left out.
            check: Whether anything but success is an error.
        """
        managed = self._live("run_file")
        argv = (*self.command(file=path, language=language), *arguments)
        spoken = language_of_program(argv[0])
        request = build_request(argv, self.policy, timeout=timeout, env=env, cwd=cwd, stdin=stdin is not None)
        with managed.losing("run_file"):
            result = await self._complete(request, spoken, stdin)
        return result.check() if check else result

    def command(
        self, *, code: str | None = None, file: str | PurePosixPath | None = None, language: str | None = None
    ) -> tuple[str, ...]:
        """Return the argument vector that runs a short piece of code, or a file inside, for ``exec``.

        Raises InvalidRequestError where the language can't be told, or isn't one.
        """
        planned = self._live("command").planned
        facts = planned.report.facts
        if (code is None) == (file is None):
            msg = "command takes either code or a file"
            raise InvalidRequestError(msg)
        if code is not None:
            return language_of_name(language or "python", facts).command(code)
        path = PurePosixPath(self.policy.files.workspace) / str(file)
        if language is None and path.suffix == WASM_SUFFIX:
            require_wasm(path.name, planned.plan.boundary)
            return (str(path),)
        return (language_for_file(path.name, language, facts).program, str(path))

    async def _complete(self, request: ExecRequest, spoken: Language | None, stdin: bytes | str | None) -> RunResult:
        """Run a program to its end, with what it used; raises where its interpreter isn't there."""
        managed = self._live("run")
        if spoken is not None and spoken.preloadable and self.preload:
            request = replace(request, preloaded=True)
        result = await _finish(AsyncProcess(await managed.exec(request), managed), stdin)
        if spoken is not None and result.exit_code == 127 and result.message:
            raise await self._absent(spoken, result)
        with suppress(JubakoError):
            result = replace(result, usage=await managed.usage())
        return result

    async def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: Seconds = None,  # noqa: ASYNC109  # held by the driver on the host
        env: Mapping[str, str] | None = None,
        cwd: str | PurePosixPath | None = None,
        stdin: bool = False,
        tty: Terminal = False,
        max_output: int | None = None,
        preloaded: bool = False,
    ) -> AsyncProcess:
        """Start a program and return it while it runs.

        Args:
            argv: Its name, looked up in the sandbox's PATH, and its arguments.
            timeout: Seconds, at most the policy's ``time.exec``; then its whole tree is killed.
            env: Variables besides the sandbox's own.
            cwd: Where it starts; the workspace when left out.
            stdin: Whether its input stays open for writing.
            tty: Whether it gets a terminal, or the terminal's size.
            max_output: Bytes of both outputs together, at most the policy's ``output.max_bytes``.
            preloaded: Whether to start it, a ``python3`` command, as a fork of what has imported ``preload``.
        """
        managed = self._live("exec")
        request = build_request(
            argv, self.policy, timeout=timeout, env=env, cwd=cwd, stdin=stdin, tty=tty, max_output=max_output
        )
        if preloaded:
            if not self.preload:
                msg = "the sandbox has preloaded nothing"
                raise InvalidRequestError(msg, hint="make it with preload=[...]")
            request = replace(request, preloaded=True)
        return AsyncProcess(await managed.exec(request), managed)

    async def usage(self) -> Usage:
        """Return what the sandbox has used so far."""
        return await self._live("usage").usage()

    async def connect(self, port: int) -> AsyncConnection:
        """Open a stream to a TCP port on the sandbox's loopback. Raises GuestConnectionError."""
        return AsyncConnection(await self._live("connect").connect(port))

    async def pause(self) -> None:
        """Freeze everything inside. Raises InvalidRequestError where the machine can't."""
        await self._live("pause").pause()

    async def resume(self) -> None:
        """Let everything inside go on."""
        await self._live("resume").resume()

    async def stop(self, *, grace: float = 5.0) -> None:
        """Ask everything inside to end, and end it after ``grace`` seconds. Files can't be read afterwards."""
        await self._live("stop").stop(timedelta(seconds=grace))

    async def destroy(self) -> None:
        """Remove every trace of the sandbox, from any state; idempotent."""
        if self._managed is not None:
            await self._managed.destroy()

    async def snapshot(self, name: str | None = None) -> Snapshot:
        """Write the sandbox down, so that others can go on from here; this one goes on too.

        Raises SandboxStateError while programs run inside, InvalidRequestError where the boundary can't,
        NameTakenError, and SnapshotError when it can't be written; then nothing is left.
        """
        return await self._owner("snapshot").snapshot(self._live("snapshot"), name)

    async def fork(self, count: int = 1, *, ttl: Seconds = None) -> list[AsyncSandbox]:
        """Return ``count`` running sandboxes that go on from here, all or none; this one goes on too.

        Each has an identity of its own and this one's rights, with what is left of its budgets. Destroy
        them, or use them as context managers; they end with this one's runtime at the latest.

        Args:
            count: How many, at most 1000.
            ttl: Seconds until each is destroyed, at most the policy's ``time.sandbox``.
        """
        runtime = self._owner("fork")
        children = await runtime.fork(self._live("fork"), count, ttl=ttl)
        return [self._around(child, runtime) for child in children]

    @classmethod
    def _around(cls, managed: ManagedSandbox, runtime: Runtime) -> AsyncSandbox:
        box = AsyncSandbox(runtime=runtime)
        box._managed, box._forked = managed, True
        return box

    def _owner(self, call: str) -> Runtime:
        if self._runtime is None:
            raise _not_started(call)
        return self._runtime

    def _scratch(self) -> str:
        """Where code goes that is too long for an argument."""
        shell = Feature.PROCESSES in self._live("run").planned.plan.features
        return "/tmp" if shell else self.policy.files.workspace  # noqa: S108  # a path inside

    def _live(self, call: str) -> ManagedSandbox:
        if self._managed is None:
            raise _not_started(call)
        return self._managed

    async def _absent(self, language: Language, result: RunResult) -> InvalidRequestError:
        managed = self._live("run")
        present = await self._present(managed)
        msg = f"there is no {language.program} inside, so {language.name} can't run: {result.message}"
        hint = f"languages present: {', '.join(present)}" if present else "the template has no known language"
        return InvalidRequestError(msg, hint=hint, details={"language": language.name, "present": present})

    async def _present(self, managed: ManagedSandbox) -> list[str]:
        if Feature.PROCESSES not in managed.planned.plan.features:
            return languages_of_facts(managed.planned.report.facts)
        programs = {item.program: item.name for item in LANGUAGES.values()}
        script = f"for p in {' '.join(programs)}; do command -v $p >/dev/null 2>&1 && echo $p; done"
        request = build_request(("sh", "-c", script), self.policy, max_output=1024)
        found = await _finish(AsyncProcess(await managed.exec(request), managed), None)
        return [programs[line] for line in found.stdout.split() if line in programs]


def _not_started(call: str) -> SandboxStateError:
    msg = f"{call}: the sandbox is not started"
    return SandboxStateError(
        msg, hint="enter it with a `with` statement first", details={"state": "pending", "call": call}
    )


async def _finish(process: AsyncProcess, stdin: bytes | str | None) -> RunResult:
    try:
        return await process.result(stdin)
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(JubakoError):
            await process.kill()
        raise
