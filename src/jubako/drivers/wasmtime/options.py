"""``driver_options.wasmtime``: what a policy may ask of this driver alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NoReturn, cast

from jubako.errors import InvalidPolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

__all__ = ["NAME", "Options", "parse_options"]

NAME: Final = "wasmtime"
_MODULE: Final = re.compile(r"^[a-z][a-z0-9_-]{0,31}$")
_RESERVED: Final = frozenset({"js", "javascript", "node", "python", "python3"})
_MAX_MODULES: Final = 16
_SECOND: Final = 10**9


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options.

    Attributes:
        clock: Nanoseconds since 1970 at which the wall clock stands; None for the real one. Time that
            passes, such as ``time.monotonic``, still does in Python and other components.
        random_seed: Seed of a deterministic random source; None for the kernel's.
        modules: Programs by name, each a host path of a ``.wasm`` file, compiled before the sandbox is made.
    """

    clock: int | None = None
    random_seed: int | None = None
    modules: Mapping[str, str] = field(default_factory=dict[str, str])


def parse_options(values: Mapping[str, JsonValue]) -> Options:
    """Return the options of ``policy.driver_options[NAME]``. Raises InvalidPolicyError naming the field."""
    for name in values:
        if name not in _KNOWN:
            _refuse(name, "is not an option of this driver", f"known: {', '.join(_KNOWN)}")
    return Options(
        clock=_clock(values.get("clock", "real")),
        random_seed=_seed(values.get("random_seed")),
        modules=_modules(values.get("modules", {})),
    )


_KNOWN: Final = ("clock", "modules", "random_seed")


def _clock(value: JsonValue) -> int | None:
    if value == "real":
        return None
    hint = 'use "real", or a time such as "2026-01-01T00:00:00Z" at which the clock stands'
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        _refuse("clock", f"is neither real nor a time with its zone: {value!r}", hint)
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    if seconds < 0:
        _refuse("clock", "lies before 1970", hint)
    return round(seconds * _SECOND)


def _seed(value: JsonValue) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        _refuse("random_seed", "is not a whole number from 0 to 2**63 - 1", "choose any such number")
    return value


def _modules(value: JsonValue) -> Mapping[str, str]:
    hint = 'name programs and their files: modules = { convert = "/opt/convert.wasm" }'
    if not isinstance(value, dict) or len(value) > _MAX_MODULES:
        _refuse("modules", f"is not a table of at most {_MAX_MODULES} programs", hint)
    for name, path in value.items():
        if not _MODULE.match(name) or name in _RESERVED:
            _refuse("modules", f"{name!r} can't be a program's name", "lower-case letters, digits, - and _")
        if not isinstance(path, str) or not path.startswith("/"):
            _refuse("modules", f"the file of {name!r} is not an absolute path", hint)
    return cast("Mapping[str, str]", dict(value))


def _refuse(option: str, text: str, hint: str) -> NoReturn:
    place = f"driver_options.{NAME}.{option}"
    msg = f"{place} {text}"
    raise InvalidPolicyError(msg, hint=hint, details={"field": place})
