"""The agent, or another program for inside, as one file for a given interpreter: built once, then cached."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import stat
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jubako.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["agent_file", "bundle_agent", "bundle_program", "tools_directory", "tools_module"]

_AGENT: Final = Path(__file__).resolve().parent.parent / "agent"
_COMPILER: Final = Path(__file__).resolve().parent / "_compile.py"
_BUILD_SECONDS: Final = 60.0
_MAX_BUNDLE: Final = 4 * 1024 * 1024
_REMOTE: Final = (
    "import sys, json\n"
    "text, package, sources = json.load(sys.stdin)\n"
    "scope = {'__name__': 'bundle'}\n"
    "exec(compile(text, '<bundle>', 'exec'), scope)\n"
    "sys.stdout.buffer.write(scope['compile_bundle'](sources, package))\n"
)


def bundle_agent(python: str = sys.executable) -> bytes:
    """Return the agent as the bytes of one ``.pyc`` for ``python``.

    Raises:
        LaunchError: The interpreter can't be run or is too old.
    """
    return agent_file(python).read_bytes()


def agent_file(python: str = sys.executable) -> Path:
    """Return the path of the cached ``.pyc`` for ``python``, building it first when needed.

    The file and its directory belong to this user and nobody else can write them.
    """
    sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted(_AGENT.glob("*.py"))}
    return _file("agent", sources, python)


def bundle_program(package: str, sources: Mapping[str, str], python: str = sys.executable) -> bytes:
    """Return a program as the bytes of one ``.pyc`` for ``python``, which calls ``main`` of its module ``main``.

    ``sources`` maps the names of the modules of ``package`` to their text. Raises LaunchError.
    """
    return _file(package, dict(sources), python).read_bytes()


def _file(package: str, sources: dict[str, str], python: str) -> Path:
    text = _COMPILER.read_text(encoding="utf-8")
    interpreter = os.path.realpath(python)
    same = interpreter == os.path.realpath(sys.executable)
    told = [text, package, sources, _fingerprint(interpreter, same=same)]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    directory = _cache_directory()
    path = directory / f"{package}-{digest[:32]}.pyc"
    if not _trusted(path):
        make = _compile_here if same else partial(_compile_elsewhere, interpreter)
        _install(directory, path, make(text, package, sources))
    return path


def tools_directory() -> Path:
    """Return the directory with nothing but modules for programs inside, such as ``jubako_tools``."""
    return _AGENT / "lib"


def tools_module() -> bytes:
    """Return the text of ``jubako_tools.py``, with which programs inside call functions of the host."""
    return (tools_directory() / "jubako_tools.py").read_bytes()


def _fingerprint(interpreter: str, *, same: bool) -> list[str]:
    if same:
        return [sys.implementation.cache_tag or "", importlib.util.MAGIC_NUMBER.hex()]
    try:
        status = Path(interpreter).stat()
    except OSError as error:
        msg = f"the interpreter {interpreter} can't be used: {error.strerror}"
        raise LaunchError(msg) from error
    return [interpreter, str(status.st_size), str(status.st_mtime_ns), str(status.st_ino)]


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    directory = root / "jubako"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        msg = f"no cache directory {directory}: {error.strerror}"
        raise LaunchError(msg) from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        # Whoever can write here could run code of theirs as the first process of every sandbox.
        msg = f"{directory} can be written by others"
        raise LaunchError(msg, hint="remove it or set XDG_CACHE_HOME")
    return directory


def _trusted(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        and 0 < status.st_size <= _MAX_BUNDLE
    )


def _compile_here(text: str, package: str, sources: dict[str, str]) -> bytes:
    """Compile with the very text that the digest names: the imported module may be older than the file."""
    scope: dict[str, Any] = {"__name__": "bundle"}
    exec(compile(text, "<bundle>", "exec"), scope)  # noqa: S102  # a module of this package
    result: bytes = scope["compile_bundle"](sources, package)
    return result


def _compile_elsewhere(interpreter: str, text: str, package: str, sources: dict[str, str]) -> bytes:
    try:
        done = subprocess.run(
            [interpreter, "-I", "-S", "-B", "-c", _REMOTE],
            input=json.dumps([text, package, sources]).encode(),
            capture_output=True,
            timeout=_BUILD_SECONDS,
            check=True,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or b""
        message = f"{interpreter} can't build the agent: {detail.decode('utf-8', 'replace')[-500:] or error}"
        raise LaunchError(message, hint="the guest needs Python 3.8 or later") from error
    return done.stdout


def _install(directory: Path, path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".agent-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            # Readable by all: a sandbox may run it as another user.
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
