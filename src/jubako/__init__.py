"""jubako runs untrusted AI-written code behind the right boundary: threat model in, proven boundary out.

Names are imported when first used, so that ``import jubako`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jubako._version import __version__

if TYPE_CHECKING:
    from jubako.errors import JubakoError
    from jubako.policy import Policy, SandboxSpec

__all__ = ["JubakoError", "Policy", "SandboxSpec", "__version__"]

_HOMES = {
    "JubakoError": "jubako.errors",
    "Policy": "jubako.policy",
    "SandboxSpec": "jubako.policy",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module 'jubako' has no attribute {name!r}"
        raise AttributeError(msg)
    import importlib  # noqa: PLC0415  # kept out of start-up

    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
