"""Host functions for sandboxed programs: ``jubako_tools.call("name", argument=value)``."""

import json

from wit_world.imports import tools as _host

__all__ = ["ToolError", "call"]


class ToolError(Exception):
    """A call was refused or failed; ``code`` is stable, ``message`` is for people."""

    def __init__(self, code, message):
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self):
        return f"{self.code}: {self.message}"


def call(name, /, **arguments):
    """Return what the host function answers, as JSON values. Raises ToolError."""
    try:
        answer = _host.call(name, json.dumps(arguments, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    except Exception as error:
        said = getattr(error, "value", None)
        if type(error).__name__ != "Err" or not isinstance(said, str):
            raise
        raise _tool_error(said) from None
    return json.loads(answer)


def _tool_error(said):
    try:
        fields = json.loads(said)
        return ToolError(str(fields["code"]), str(fields["message"]))
    except (ValueError, KeyError, TypeError):
        return ToolError("tool-failed", said)
