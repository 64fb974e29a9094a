"""The fields of the host's larger messages, from what the callers give."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Final

from jubako.errors import InvalidRequestError
from jubako.guest.process import check_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from jubako.boundary.contract import ExecRequest
    from jubako.guest.config import LauncherConfig, SessionConfig, SessionLimits
    from jubako.guest.renewal import Identity
    from jubako.guest.wire import Field

__all__ = ["config_fields", "exec_fields", "identity_fields"]

_FLAG_STDIN: Final = 1
_FLAG_TTY: Final = 2
_FLAG_PRELOADED: Final = 4
_UNLIMITED: Final = 2**64 - 1


def config_fields(config: SessionConfig, streams: int, *, tools: bool) -> Sequence[Field]:
    """Return the fields of CONFIG; ``tools`` says whether programs can call the host."""
    landlock = config.landlock
    env = {"PATH": config.path, **config.env}
    if tools:
        env["JUBAKO_TOOLS"] = config.tools
    rlimits = [
        value if value >= 0 else _UNLIMITED
        for number, pair in sorted(config.rlimits.items())
        for value in (number, *pair)
    ]
    return (
        str(config.workspace).encode(),
        config.user.encode(),
        _pairs(env),
        rlimits,
        0 if landlock is None else 2 if landlock.required else 1,
        [path.encode() for path in landlock.readable] if landlock else [],
        [path.encode() for path in landlock.writable] if landlock else [],
        [*(mask.entry() for mask in config.masks), *(mount.entry() for mount in config.mounts)],
        config.seccomp,
        config.limits.window,
        streams,
        _milliseconds(config.limits.drain),
        _address(config.tools) if tools else b"",
        *_launcher_fields(config.launcher),
        int(config.renewable),
    )


def identity_fields(identity: Identity, limits: SessionLimits, streams: int, *, tools: bool) -> Sequence[Field]:
    """Return the fields of RENEW."""
    return (
        identity.hostname.encode(),
        identity.machine_id.encode(),
        identity.seed,
        _pairs(identity.env),
        limits.window,
        streams,
        _milliseconds(limits.drain),
        int(tools),
    )


def _milliseconds(time: timedelta) -> int:
    return min(round(time.total_seconds() * 1000), 2**32 - 1)


def _address(name: str) -> bytes:
    """Return a unix socket's address; ``@`` stands for the NUL byte of an abstract one."""
    return b"\0" + name[1:].encode() if name.startswith("@") else name.encode()


def _launcher_fields(launcher: LauncherConfig | None) -> Sequence[Field]:
    if launcher is None:
        return [], [], 0, 0
    return (
        [item.encode("utf-8", "surrogateescape") for item in launcher.argv],
        _pairs(launcher.env),
        int(launcher.everything),
        _milliseconds(launcher.ready),
    )


def _pairs(env: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    pairs: list[tuple[bytes, bytes]] = []
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            msg = f"{name!r} can't be an environment variable"
            raise InvalidRequestError(msg)
        pairs.append((name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")))
    return pairs


def exec_fields(request: ExecRequest, launcher: LauncherConfig | None) -> Sequence[Field]:
    """Return the fields of EXEC. Raises InvalidRequestError for what can't be asked of this session."""
    _check_launcher(request, launcher)
    if not request.argv:
        raise InvalidRequestError("argv is empty")
    if any("\0" in item for item in request.argv):
        raise InvalidRequestError("argv holds a NUL character")
    cwd = "" if request.cwd is None else str(request.cwd)
    if "\0" in cwd:
        raise InvalidRequestError("cwd holds a NUL character")
    if request.max_output < 0:
        raise InvalidRequestError("max_output is negative")
    if request.timeout is not None and not (
        request.timeout.total_seconds() > 0 and isfinite(request.timeout.total_seconds())
    ):
        raise InvalidRequestError("timeout must be positive")
    flags, rows, columns = 0, 0, 0
    if request.tty is not None:
        check_size(request.tty)
        flags, rows, columns = _FLAG_TTY, request.tty.rows, request.tty.columns
    elif request.stdin:
        flags = _FLAG_STDIN
    if request.preloaded:
        flags |= _FLAG_PRELOADED
    return (
        [item.encode("utf-8", "surrogateescape") for item in request.argv],
        cwd.encode("utf-8", "surrogateescape"),
        _pairs(request.env),
        (request.user or "").encode("utf-8", "surrogateescape"),
        flags,
        rows,
        columns,
    )


def _check_launcher(request: ExecRequest, launcher: LauncherConfig | None) -> None:
    if request.preloaded and (launcher is None or launcher.everything):
        raise InvalidRequestError(
            "the sandbox has no preloaded interpreter",
            hint="name modules in the spec's preload, or exec without preloaded",
            details={"field": "preloaded"},
        )
    if request.tty is not None and launcher is not None and (request.preloaded or launcher.everything):
        raise InvalidRequestError(
            "programs that are forks of a launcher can't have a terminal", details={"field": "tty"}
        )
