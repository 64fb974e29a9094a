"""Arguments of the public API, turned into what the core takes; wrong ones are refused before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from jubako.boundary.contract import ExecRequest, TerminalSize
from jubako.errors import InvalidRequestError
from jubako.policy import Policy, SandboxSpec
from jubako.runtime.process import terminal_size

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PolicyLike", "Seconds", "Terminal", "as_policy", "build_request", "build_spec", "ttl_seconds"]

PolicyLike = Policy | Mapping[str, object] | str | Path | None
Seconds = float | timedelta | None
Terminal = bool | TerminalSize


def as_policy(policy: PolicyLike) -> Policy:
    """Return the policy for a Policy, a mapping of its fields, the path of a file, or a preset's name.

    ``None`` is the default policy, in which every default is the safe one. Raises InvalidPolicyError.
    """
    if policy is None:
        return Policy()
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, Mapping):
        return _policy_of(policy)
    if isinstance(policy, str) and "/" not in policy and "." not in policy:
        from jubako.policy.presets import preset

        return preset(policy)
    from jubako.policy.load import load_policy

    return load_policy(policy)


def _policy_of(fields: Mapping[str, object]) -> Policy:
    from pydantic import ValidationError

    try:
        return Policy.model_validate(dict(fields))
    except ValidationError as error:
        from jubako.policy.load import invalid_policy

        raise invalid_policy(error) from error


def build_spec(
    *,
    boundary: str = "auto",
    driver: str | None = None,
    policy: PolicyLike = None,
    template: str = "host",
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    preload: Sequence[str] = (),
) -> SandboxSpec:
    """Return the checked spec. Raises InvalidPolicyError for the policy, InvalidRequestError for the rest."""
    from pydantic import ValidationError

    checked = as_policy(policy)
    if isinstance(preload, str):
        msg = "preload is a list of module names"
        raise InvalidRequestError(msg, hint=f"preload=[{preload!r}]", details={"field": "preload"})
    try:
        return SandboxSpec(
            boundary=boundary,
            driver=driver,
            policy=checked,
            template=template,
            name=name,
            labels=dict(labels or {}),
            preload=tuple(preload),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        msg = f"{field}: {first['msg']}"
        raise InvalidRequestError(msg, details={"field": field}) from error


def ttl_seconds(ttl: Seconds, policy: Policy) -> float:
    """Return the time to live; a call may ask for less than the policy's, not for more."""
    return _bounded("ttl", ttl, policy.time.sandbox, "time.sandbox")


def build_request(
    argv: Sequence[str],
    policy: Policy,
    *,
    timeout: Seconds = None,
    env: Mapping[str, str] | None = None,
    cwd: str | PurePosixPath | None = None,
    stdin: bool = False,
    tty: Terminal = False,
    max_output: int | None = None,
) -> ExecRequest:
    """Return the checked request for one program. Raises InvalidRequestError."""
    words = cast("Sequence[object]", argv)  # whatever callers without a type checker may give
    if isinstance(words, (str, bytes)) or not words or not all(isinstance(item, str) for item in words):
        msg = "a program is a list of strings: its name and its arguments"
        raise InvalidRequestError(msg, hint='for a shell line use run("...", language="bash")')
    if any("\0" in item for item in argv):
        msg = "an argument holds a NUL character"
        raise InvalidRequestError(msg)
    limit = policy.output.max_bytes
    if max_output is not None and not 0 <= max_output <= limit:
        msg = f"max_output is {max_output}; the policy's output.max_bytes is {limit}"
        raise InvalidRequestError(msg, hint="raise output.max_bytes in the policy", details={"max_output": max_output})
    size = tty if isinstance(tty, TerminalSize) else TerminalSize() if tty else None
    return ExecRequest(
        argv=tuple(argv),
        cwd=PurePosixPath(cwd) if cwd is not None else None,
        env=dict(env or {}),
        tty=terminal_size(size.rows, size.columns) if size is not None else None,
        stdin=stdin,
        timeout=timedelta(seconds=_bounded("timeout", timeout, policy.time.exec, "time.exec")),
        max_output=limit if max_output is None else max_output,
    )


def _bounded(name: str, value: Seconds, limit: float, field: str) -> float:
    if value is None:
        return limit
    seconds = cast("object", value.total_seconds() if isinstance(value, timedelta) else value)
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
        msg = f"{name} is a number of seconds above 0"
        raise InvalidRequestError(msg, details={name: str(value)})
    if seconds > limit:
        msg = f"{name} is {seconds:g} s; the policy's {field} is {limit:g} s"
        raise InvalidRequestError(msg, hint=f"raise {field} in the policy", details={name: seconds, field: limit})
    return float(seconds)
