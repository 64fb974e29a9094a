"""From a program's name, or bytes, to a file that the worker may deserialise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jubako.errors import LaunchError

if TYPE_CHECKING:
    from jubako.drivers.wasmtime.artifacts.cache import ArtifactCache
    from jubako.drivers.wasmtime.artifacts.model import Program, Progress

__all__ = ["javascript_program", "python_program", "user_program"]


async def python_program(cache: ArtifactCache | None = None, *, progress: Progress | None = None) -> Program:
    """Return CPython for WASI, built and compiled at the first call on a machine (some 15 seconds).

    Raises:
        MissingExtraError: wasmtime or componentize-py is not installed.
        LaunchError: The build failed; nothing of it is left.
    """
    msg = f"not built yet: {cache} {progress}"
    raise LaunchError(msg)


async def javascript_program(cache: ArtifactCache | None = None, *, progress: Progress | None = None) -> Program:
    """Return the JavaScript engine, compiled at the first call on a machine.

    Raises:
        MissingExtraError: wasmtime or the engine is not installed.
        LaunchError: The compilation failed; nothing of it is left.
    """
    msg = f"not built yet: {cache} {progress}"
    raise LaunchError(msg)


async def user_program(data: bytes, cache: ArtifactCache | None = None, *, progress: Progress | None = None) -> Program:
    """Return a caller's module or component, compiled at its first use.

    Raises:
        InvalidRequestError: It is malformed, too large, takes too much to compile, or imports what there is not.
        MissingExtraError: wasmtime is not installed.
        LaunchError: The compiler could not be run.
    """
    msg = f"not built yet: {len(data)} {cache} {progress}"
    raise LaunchError(msg)
