"""From a program's name, or bytes, to a file that the worker may deserialise."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import anyio.to_thread

from jubako.drivers.wasmtime.artifacts.cache import ArtifactCache
from jubako.drivers.wasmtime.artifacts.model import Kind, Program
from jubako.drivers.wasmtime.artifacts.supply import (
    ENGINE_DIGEST,
    GUEST,
    compilation_key,
    copy_data,
    engine_words,
    javascript_command,
    javascript_engine,
    python_key,
    require,
)
from jubako.errors import InvalidRequestError, LaunchError
from jubako.linux.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jubako.drivers.wasmtime.artifacts.cache import Entry
    from jubako.drivers.wasmtime.artifacts.model import Progress

__all__ = ["MAX_USER_MODULE", "javascript_program", "python_program", "user_program"]

MAX_USER_MODULE: Final = 64 * 1024 * 1024
"""Bytes of a caller's module; compiling takes a hundred times the memory and minutes beyond it."""

_WORKSHOP: Final = Path(__file__).resolve().parent / "workshop.py"
_MIB: Final = 1024 * 1024
_MAX_ANSWER: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a throw-away process may take; 0 is no limit. Input that is not ``own`` is hostile."""

    seconds: float
    cpu: int
    memory: int
    file: int
    own: bool


# Own input: bounded against accidents. Address space is not: compiling in parallel reserves some for each processor.
_OWN: Final = _Limits(seconds=600, cpu=1200, memory=0, file=1024 * _MIB, own=True)
_FOREIGN: Final = _Limits(seconds=180, cpu=120, memory=3 * 1024 * _MIB, file=512 * _MIB, own=False)


async def python_program(cache: ArtifactCache | None = None, *, progress: Progress | None = None) -> Program:
    """Return CPython for WASI, built and compiled at the first call on a machine (some 20 seconds).

    Raises:
        MissingExtraError: wasmtime or componentize-py is not installed.
        LaunchError: The build failed; nothing of it is left.
        StoreError: The cache can't be used.
    """
    cache = cache or ArtifactCache()
    key = compilation_key(python_key())
    entry = await cache.find(key)
    if entry is None:
        async with cache.workplace(key) as place:
            entry = await cache.find(key) or await _make_python(cache, key, place, progress)
    return _program(entry, "python")


async def javascript_program(cache: ArtifactCache | None = None, *, progress: Progress | None = None) -> Program:
    """Return the JavaScript engine, compiled at the first call on a machine.

    Raises:
        MissingExtraError: wasmtime or the engine is not installed.
        LaunchError: The compilation failed; nothing of it is left.
        StoreError: The cache can't be used.
    """
    cache = cache or ArtifactCache()
    text = javascript_command().encode()
    library = await _built(cache, f"library:{ENGINE_DIGEST}", "library", javascript_engine, progress)
    command = await _built(cache, f"text:{_sha256(text)}", "text", lambda: text, progress)
    return Program("core-command", command.path, ENGINE_DIGEST, "js", (("engine", library.path),))


async def _built(
    cache: ArtifactCache, source: str, origin: str, read: Callable[[], bytes], progress: Progress | None
) -> Entry:
    """Return a part of ours, compiled at its first use."""
    key = compilation_key(source)
    entry = await cache.find(key)
    if entry is None:
        async with cache.workplace(key) as place:
            entry = await cache.find(key)
            if entry is None:
                _tell(progress, "compiling JavaScript for this processor: once on this machine")
                entry = await _compile_bytes(cache, key, place, read(), origin)
    return entry


async def _compile_bytes(cache: ArtifactCache, key: str, place: Path, data: bytes, origin: str) -> Entry:
    wasm = place / "program.wasm"
    await anyio.to_thread.run_sync(wasm.write_bytes, data)
    digest = await anyio.to_thread.run_sync(_sha256, data)
    return await _compile(cache, key, wasm, digest, origin)


async def user_program(data: bytes, cache: ArtifactCache | None = None, *, progress: Progress | None = None) -> Program:
    """Return a caller's module or component, compiled at its first use.

    Raises:
        InvalidRequestError: It is malformed, too large, takes too much to compile, or imports what there is not.
        MissingExtraError: wasmtime is not installed.
        LaunchError: The compiler could not be run.
        StoreError: The cache can't be used.
    """
    if len(data) > MAX_USER_MODULE:
        msg = f"a WebAssembly program of {len(data)} bytes: at most {MAX_USER_MODULE} are compiled"
        raise InvalidRequestError(msg, hint="strip its debug sections, or split it", details={"bytes": len(data)})
    cache = cache or ArtifactCache()
    digest = await anyio.to_thread.run_sync(_sha256, data)
    # Never the entry of a program of ours, not even for the same bytes: it was compiled by looser rules.
    key = compilation_key(f"user:{digest}")
    entry = await cache.find(key)
    if entry is None:
        async with cache.workplace(key) as place:
            entry = await cache.find(key)
            if entry is None:
                _tell(progress, f"compiling a WebAssembly program of {len(data)} bytes")
                entry = await _compile_bytes(cache, key, place, data, "user")
    return _program(entry, entry.digest[:12])


async def _make_python(cache: ArtifactCache, key: str, place: Path, progress: Progress | None) -> Entry:
    require("wasmtime")
    _tell(progress, "building Python for WebAssembly: once on this machine, about 20 seconds")
    wasm = place / "python.wasm"
    # An environment of its own: otherwise the builder puts this Python's installed packages into the component.
    environment = place / "environment"
    environment.mkdir()
    data = place / "data"
    await anyio.to_thread.run_sync(copy_data, data)
    words = {"sources": str(GUEST), "data": str(data), "out": str(wasm)}
    await _work("component", words, place, _OWN, {"VIRTUAL_ENV": str(environment)})
    _tell(progress, "compiling Python for this processor")
    digest = await anyio.to_thread.run_sync(_sha256_of, wasm)
    return await _compile(cache, key, wasm, digest, "python")


async def _compile(cache: ArtifactCache, key: str, wasm: Path, digest: str, origin: str) -> Entry:
    out = wasm.with_suffix(".cwasm")
    limits = _FOREIGN if origin == "user" else _OWN
    words = {"wasm": str(wasm), "out": str(out), "engine": engine_words(parallel=limits.own), "origin": origin}
    answer = await _work("compile", words, wasm.parent, limits)
    return await cache.install(key, out, kind=str(answer.get("kind")), digest=digest)


async def _work(
    task: str, words: Mapping[str, str], place: Path, limits: _Limits, env: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Run a task of the workshop in a process of its own; return what it found."""
    bounds = {"memory": limits.memory, "cpu": limits.cpu, "file": limits.file}
    arguments = [f"{name}={value}" for name, value in {**words, **bounds}.items()]
    environment = {"HOME": str(place), "TMPDIR": str(place), "LC_ALL": "C.UTF-8", **(env or {})}
    answer = place / f"{task}.json"
    out = os.open(answer, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        child = spawn(
            [sys.executable, "-I", "-B", str(_WORKSHOP), task, *arguments], env=environment, cwd=str(place), stdout=out
        )
    finally:
        os.close(out)
    status = 0
    async with child:
        with anyio.move_on_after(limits.seconds) as clock:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(child.pump_stderr)
                status = await child.wait()
        said = child.stderr_text()
    if clock.cancelled_caught:
        raise _failed(task, limits, f"it took more than {limits.seconds:.0f} seconds")
    return _answer(task, limits, answer, status, said)


def _answer(task: str, limits: _Limits, path: Path, status: int, said: str) -> dict[str, object]:
    with path.open("rb") as file:
        data = file.read(_MAX_ANSWER)
    try:
        found: object = json.loads(data)
    except ValueError:
        found = None
    if status == 0 and isinstance(found, dict):
        fields = cast("dict[str, object]", found)
        if isinstance(fields.get("refused"), str):
            raise _failed(task, limits, str(fields["refused"]))
        if isinstance(fields.get("ok"), dict):
            return cast("dict[str, object]", fields["ok"])
    if limits.memory and status == -signal.SIGABRT and "memory allocation" in said:
        raise _failed(task, limits, f"it took more than {limits.memory // _MIB} MiB of memory")
    if status in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise _failed(task, limits, f"it took more than {limits.cpu} seconds of processor time, or was killed")
    raise _failed(task, limits, said[-2000:] or f"exit status {status}")


def _failed(task: str, limits: _Limits, why: str) -> LaunchError | InvalidRequestError:
    why = why.strip() or "no message"
    if limits.own:
        return LaunchError(f"WebAssembly: {task} failed: {why}", hint="see docs/wasm.md", details={"task": task})
    return InvalidRequestError(
        f"this WebAssembly program can't be used: {why}",
        hint="give a WASI command: a module of preview 1 or a component of preview 2",
        details={"memory": limits.memory, "cpu": limits.cpu},
    )


def _program(entry: Entry, name: str) -> Program:
    return Program(cast("Kind", entry.kind), entry.path, entry.digest, name)


def _tell(progress: Progress | None, text: str) -> None:
    if progress is not None:
        progress(text)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
