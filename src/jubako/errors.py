"""The one tree of errors. Codes are stable, kebab-case, and never name a driver.

JubakoError
├── ConfigurationError: InvalidPolicyError, InvalidRequestError, UnknownDriverError, MissingExtraError
├── BoundaryError: DriverUnavailableError, PolicyNotEnforceableError, LaunchError, InstanceLostError, ProtocolError,
│   SnapshotError: SnapshotIncompatibleError, SnapshotNotFoundError
├── LifecycleError: SandboxNotFoundError, SandboxStateError, SandboxExpiredError, NameTakenError
├── ExecutionError: ExecTimeoutError, OutputLimitError, CommandFailedError
├── GuestError: GuestFileError (+ twins of FileNotFoundError, ...), FileTooLargeError, GuestConnectionError
├── DeniedError
├── LimitError
├── LedgerError
├── StoreError
└── ToolError
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BoundaryError",
    "CommandFailedError",
    "ConfigurationError",
    "DeniedError",
    "DriverUnavailableError",
    "ExecTimeoutError",
    "ExecutionError",
    "FileTooLargeError",
    "GuestConnectionError",
    "GuestError",
    "GuestFileError",
    "GuestFileExistsError",
    "GuestFileNotFoundError",
    "GuestIsADirectoryError",
    "GuestNotADirectoryError",
    "GuestPermissionError",
    "InstanceLostError",
    "InvalidPolicyError",
    "InvalidRequestError",
    "JubakoError",
    "LaunchError",
    "LedgerError",
    "LifecycleError",
    "LimitError",
    "MissingExtraError",
    "NameTakenError",
    "OutputLimitError",
    "PolicyNotEnforceableError",
    "ProtocolError",
    "SandboxExpiredError",
    "SandboxNotFoundError",
    "SandboxStateError",
    "SnapshotError",
    "SnapshotIncompatibleError",
    "SnapshotNotFoundError",
    "StoreError",
    "ToolError",
    "UnknownDriverError",
]

EXIT_JUBAKO: Final = 125
"""CLI exit status of jubako's own failures, as ``docker run`` and ``env`` use it."""


class JubakoError(Exception):
    """Root of all errors raised by jubako.

    Attributes:
        code: Stable kebab-case name of what went wrong.
        retryable: Whether the same call can succeed later without a change.
        exit_status: What the CLI exits with.
        hint: What the reader can do, in one sentence; may be empty.
        details: Facts for programs: strings, numbers, lists of them.
    """

    code: ClassVar[str] = "jubako-error"
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = EXIT_JUBAKO

    def __init__(self, message: str, *, hint: str = "", details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: Mapping[str, object] = MappingProxyType(dict(details or {}))

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigurationError(JubakoError):
    """The request, policy or installation is wrong; nothing was started."""

    code = "configuration-error"
    exit_status = 2


class InvalidPolicyError(ConfigurationError):
    """A policy is malformed or contradicts itself; details hold file, line and field."""

    code = "invalid-policy"


class InvalidRequestError(ConfigurationError):
    """An argument of a call is out of bounds."""

    code = "invalid-request"


class UnknownDriverError(ConfigurationError):
    """No driver or boundary of that name is registered."""

    code = "unknown-driver"


class MissingExtraError(ConfigurationError, ImportError):
    """A feature needs an optional dependency; the hint names the extra."""

    code = "missing-extra"

    def __init__(self, message: str, *, hint: str = "", details: Mapping[str, object] | None = None) -> None:
        ConfigurationError.__init__(self, message, hint=hint, details=details)


class BoundaryError(JubakoError):
    """The wall could not be built or did not hold its promise."""

    code = "boundary-error"


class DriverUnavailableError(BoundaryError):
    """The boundary that was asked for does not work on this machine; details list the reasons."""

    code = "driver-unavailable"


class PolicyNotEnforceableError(BoundaryError):
    """A required control can't be enforced here, so nothing was started.

    details["controls"] lists control, level, required, mechanism, reason and remedy of each.
    """

    code = "policy-not-enforceable"


class LaunchError(BoundaryError):
    """Building the sandbox failed; nothing of it is left."""

    code = "launch-failed"
    retryable = True


class InstanceLostError(BoundaryError):
    """The sandbox died under the call: killed, out of memory, or torn down after a violation."""

    code = "instance-lost"


class ProtocolError(BoundaryError):
    """The guest broke the agent protocol; the sandbox was killed."""

    code = "protocol-violation"


class SnapshotError(BoundaryError):
    """A snapshot could not be written or read; the sandbox and older snapshots are as they were."""

    code = "snapshot-failed"


class SnapshotIncompatibleError(SnapshotError):
    """A snapshot does not fit this machine, driver version or policy; ``details`` names what differs."""

    code = "snapshot-incompatible"


class SnapshotNotFoundError(SnapshotError):
    """No snapshot has that name or digest."""

    code = "snapshot-not-found"


class LifecycleError(JubakoError):
    """The sandbox is not in a state that allows the call."""

    code = "lifecycle-error"


class SandboxNotFoundError(LifecycleError):
    """No sandbox has that id or name."""

    code = "sandbox-not-found"


class SandboxStateError(LifecycleError):
    """The call does not fit the sandbox's state; details hold state and call."""

    code = "sandbox-state"


class SandboxExpiredError(LifecycleError):
    """The sandbox's time to live ran out and it was destroyed."""

    code = "sandbox-expired"


class NameTakenError(LifecycleError):
    """Another live sandbox has that name."""

    code = "name-taken"


class ExecutionError(JubakoError):
    """A program inside did not end as the caller required."""

    code = "execution-error"


class ExecTimeoutError(ExecutionError, TimeoutError):
    """The program ran over its time and was killed with all its children."""

    code = "exec-timeout"
    exit_status = 124

    def __init__(self, message: str, *, hint: str = "", details: Mapping[str, object] | None = None) -> None:
        ExecutionError.__init__(self, message, hint=hint, details=details)


class OutputLimitError(ExecutionError):
    """The program wrote more than allowed, and the caller asked for that to be an error."""

    code = "output-limit"
    exit_status = 137


class CommandFailedError(ExecutionError):
    """The program failed and the caller passed ``check=True``; details hold the exit status."""

    code = "command-failed"
    exit_status = 1


class GuestError(JubakoError):
    """An operation inside was refused by the sandbox's own system."""

    code = "guest-error"


class GuestFileError(GuestError, OSError):
    """A file operation inside failed; ``errno`` is the guest's, details hold the path."""

    code = "guest-file-error"

    def __init__(
        self, message: str, *, hint: str = "", details: Mapping[str, object] | None = None, errno: int | None = None
    ) -> None:
        GuestError.__init__(self, message, hint=hint, details=details)
        self.errno = errno


class GuestFileNotFoundError(GuestFileError, FileNotFoundError):
    """No such file or directory inside."""

    code = "guest-file-not-found"


class GuestFileExistsError(GuestFileError, FileExistsError):
    """The target exists already."""

    code = "guest-file-exists"


class GuestPermissionError(GuestFileError, PermissionError):
    """The sandbox's own permissions forbid it."""

    code = "guest-permission"


class GuestIsADirectoryError(GuestFileError, IsADirectoryError):
    """A file was expected, a directory found."""

    code = "guest-is-a-directory"


class GuestNotADirectoryError(GuestFileError, NotADirectoryError):
    """A directory was expected."""

    code = "guest-not-a-directory"


class FileTooLargeError(GuestFileError):
    """The file is larger than the caller's limit; nothing was returned."""

    code = "file-too-large"


class GuestConnectionError(GuestError, ConnectionError):
    """Nothing inside listens on that port, or it hung up."""

    code = "guest-connection"
    retryable = True

    def __init__(self, message: str, *, hint: str = "", details: Mapping[str, object] | None = None) -> None:
        GuestError.__init__(self, message, hint=hint, details=details)


class DeniedError(JubakoError):
    """The policy forbids it."""

    code = "denied"


class LimitError(JubakoError):
    """A quota or budget of the caller is used up."""

    code = "limit"


class LedgerError(JubakoError):
    """The audit ledger was changed, cut or can't be written; details hold file, line and kind."""

    code = "ledger-error"
    exit_status = 1


class StoreError(JubakoError):
    """The state record can't be read or written."""

    code = "store-error"


class ToolError(JubakoError):
    """Raised by a host function to tell the program inside what went wrong: message and hint go inside."""

    code = "tool-failed"
