"""The policy schema: what the code inside may touch, clause by clause, secure by default.

One model serves files (TOML, YAML), Python, REST and tool schemas. Sizes are bytes and accept
strings such as ``"512MiB"``; times are seconds and accept ``"5m"``.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from jubako._lib.levels import Requirement
from jubako._lib.units import parse_seconds, parse_size
from jubako.policy.controls import CONTROLS

__all__ = [
    "AcceptWeaker",
    "ByteSize",
    "ControlId",
    "Count",
    "DataPolicy",
    "EnvironmentPolicy",
    "FilePolicy",
    "GuestPath",
    "Mount",
    "NetworkPolicy",
    "ObservePolicy",
    "OutputPolicy",
    "OwnPath",
    "Policy",
    "Relaxation",
    "ResourcePolicy",
    "SandboxSpec",
    "Seconds",
    "SecretClause",
    "SyscallPolicy",
    "TimePolicy",
    "ToolGrant",
    "WritableMount",
]

KIB, MIB, GIB = 1024, 1024**2, 1024**3


def _guest_path(value: str) -> str:
    path = PurePosixPath(value)
    if not path.is_absolute() or ".." in path.parts or "\0" in value or str(path) != value:
        msg = f"{value!r} is not a plain absolute path (no '..', no doubled or trailing slash)"
        raise ValueError(msg)
    return value


def _own_place(path: str) -> str:
    """Refuse the places that the driver itself builds: covering them would undo other controls."""
    if path == "/" or PurePosixPath(path).parts[1] in {"proc", "dev", "sys"}:
        msg = f"{path} is the sandbox's own; choose a place outside /proc, /dev and /sys"
        raise ValueError(msg)
    return path


def _known_control(value: str) -> str:
    if value not in CONTROLS:
        near = get_close_matches(value, CONTROLS, n=1)
        msg = f"unknown control {value!r}" + (f"; did you mean {near[0]}?" if near else "; `jubako explain` lists them")
        raise ValueError(msg)
    return value


# Scalars are strict: `true` is not 1, "3" is not 3.
ByteSize = Annotated[
    int, BeforeValidator(parse_size), Field(strict=True, ge=0, le=2**53, json_schema_extra={"format": "byte-size"})
]
Seconds = Annotated[
    float,
    BeforeValidator(parse_seconds),
    Field(strict=True, gt=0, le=366 * 86400, json_schema_extra={"format": "seconds"}),
]
Count = Annotated[int, Field(strict=True)]
GuestPath = Annotated[
    str,
    Field(max_length=4096, json_schema_extra={"pattern": r"^/([^/\u0000]+(/[^/\u0000]+)*)?$"}),
    AfterValidator(_guest_path),
]
OwnPath = Annotated[GuestPath, AfterValidator(_own_place)]
ControlId = Annotated[str, AfterValidator(_known_control), Field(json_schema_extra={"enum": list(CONTROLS)})]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
ToolName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){0,15}$", max_length=256)]
WrittenReason = Annotated[str, Field(min_length=10, max_length=1000)]


class Model(BaseModel):
    """Base of all policy models: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class AcceptWeaker(Model):
    """Accept that one control holds less than required here."""

    kind: Literal["accept-weaker"] = "accept-weaker"
    control: ControlId = Field(description="Id of the control, as in `jubako explain`.")
    accept: Requirement = Field(description="The least level that is still accepted.")
    reason: WrittenReason = Field(description="Why this is acceptable; recorded as an event.")


class WritableMount(Model):
    """Accept that code inside may write to one host directory."""

    kind: Literal["writable-mount"] = "writable-mount"
    source: GuestPath = Field(description="The host directory, exactly as in the mount.")
    reason: WrittenReason = Field(description="Why this is acceptable; recorded as an event.")


Relaxation = Annotated[AcceptWeaker | WritableMount, Field(discriminator="kind")]


class Mount(Model):
    """One host path made visible inside."""

    source: GuestPath = Field(description="Absolute host path; must exist when the sandbox is made.")
    target: OwnPath = Field(description="Absolute path inside.")
    access: Literal["ro", "rw"] = Field(
        default="ro", description="rw needs a writable-mount relaxation for the source."
    )


class FilePolicy(Model):
    """fs.*: which files exist and which may be written."""

    workspace: OwnPath = Field(default="/workspace", description="Where the private writable workspace is.")
    workspace_size: ByteSize = Field(default=512 * MIB, ge=64 * KIB, description="Size limit of the workspace.")
    tmp_size: ByteSize = Field(default=256 * MIB, ge=64 * KIB, description="Size limit of /tmp, and of /dev/shm.")
    mounts: tuple[Mount, ...] = Field(default=(), max_length=64, description="Host paths made visible inside.")
    hide: tuple[OwnPath, ...] = Field(
        default=(), max_length=256, description="Paths inside that are masked as empty, mounts at and below them too."
    )

    @field_validator("mounts")
    @classmethod
    def _in_order(cls, value: tuple[Mount, ...]) -> tuple[Mount, ...]:
        """Mounts are made in the order given, so a later one must not cover an earlier one."""
        for index, mount in enumerate(value):
            covered = next(
                (item for item in value[:index] if PurePosixPath(item.target).is_relative_to(mount.target)), None
            )
            if covered is not None:
                text = "two mounts have the target {target}"
                if covered.target != mount.target:
                    text = "{target} would cover the mount at {covered} before it; put it first"
                context = {"target": mount.target, "covered": covered.target, "place": ("files", "mounts", index)}
                raise PydanticCustomError("covered_mount", text, context)
        return value

    @model_validator(mode="after")
    def _workspace_shows(self) -> Self:
        work = PurePosixPath(self.workspace)
        for index, path in enumerate(self.hide):
            if work.is_relative_to(path):
                context = {"path": path, "place": ("files", "hide", index)}
                raise PydanticCustomError("hidden_workspace", "hiding {path} would hide the workspace", context)
        return self


class NetworkPolicy(Model):
    """net.*: where bytes may go. Only `off` exists until the egress broker does."""

    egress: Literal["off"] = Field(default="off", description="off: nothing but the sandbox's own loopback.")


class SyscallPolicy(Model):
    """syscall.*: the kernel's surface."""

    profile: Literal["default"] = Field(default="default", description="The allowlist to start from.")
    deny: tuple[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")], ...] = Field(
        default=(), max_length=512, description="Further system calls to refuse (EPERM)."
    )


class ResourcePolicy(Model):
    """resource.*: how much may be used."""

    memory: ByteSize = Field(
        default=GIB, ge=32 * MIB, description="Bytes of memory, files in the workspace and /tmp included."
    )
    swap: ByteSize = Field(default=0, description="Bytes of swap on top.")
    processes: Count = Field(default=256, ge=4, le=4_000_000, description="Processes and threads alive at once.")
    cpus: float = Field(default=1.0, strict=True, ge=0.01, le=4096, description="CPUs' worth of time per wall second.")
    open_files: Count = Field(default=1024, ge=32, le=1_048_576, description="Open descriptors per process.")
    inodes: Count = Field(default=100_000, ge=64, le=100_000_000, description="Files and directories that may be made.")
    io_bytes_per_second: ByteSize | None = Field(
        default=None, ge=64 * KIB, description="Disk bandwidth; none: no limit."
    )


class EnvironmentPolicy(Model):
    """process.environment: variables that programs see. Nothing is inherited from the host."""

    variables: dict[VariableName, Annotated[str, Field(max_length=32768)]] = Field(
        default_factory=dict, max_length=256, description="Variables set inside. Not for secrets."
    )


class TimePolicy(Model):
    """time.*: how long."""

    exec: Seconds = Field(default=300.0, description="Wall seconds per program; a call may ask for less.")
    sandbox: Seconds = Field(default=3600.0, description="Wall seconds from start to destruction.")


class OutputPolicy(Model):
    """resource.output: how much a program may say."""

    max_bytes: ByteSize = Field(default=10 * MIB, ge=KIB, description="stdout and stderr of one program together.")
    on_limit: Literal["truncate", "kill"] = Field(default="truncate", description="What happens at the limit.")


class ToolGrant(Model):
    """tool.*: one host function that the code may call, by the name under which the caller supplies it."""

    calls: Count = Field(default=100, ge=1, le=10**9, description="Calls in the sandbox's life.")
    request_bytes: ByteSize = Field(default=64 * KIB, ge=1, le=MIB, description="Arguments of one call, as JSON.")
    response_bytes: ByteSize = Field(default=MIB, ge=1, le=16 * MIB, description="Answer to one call, as JSON.")
    seconds: Seconds = Field(default=30.0, le=3600, description="Wall seconds that one call may take.")


class ObservePolicy(Model):
    """observe.*: what programs inside do, seen from outside of them."""

    activity: bool = Field(
        default=False,
        strict=True,
        description="Record starts and ends of programs, opened sensitive files and connections as events.",
    )
    sensitive: tuple[GuestPath, ...] = Field(
        default=("/etc/passwd", "/etc/shadow", "/home", "/proc/self/mem", "/root"),
        max_length=256,
        description="Paths whose opening is recorded, those below them too.",
    )


class SecretClause(Model):
    """secret.*: one credential that the code may use without seeing it. No driver enforces it yet."""

    source: str = Field(pattern=r"^(env|file|command|keyring|vault):.+$", description="Where the host finds it.")
    hosts: tuple[str, ...] = Field(min_length=1, max_length=64, description="Hosts it may be sent to.")
    place: str = Field(default="header:authorization", description="Where in a request it may stand.")


class DataPolicy(Model):
    """data.*: labels on what goes in. No driver enforces them yet."""

    labels: tuple[Name, ...] = Field(default=(), max_length=64, description="Labels such as `pii` or `customer-a`.")
    regions: tuple[Name, ...] = Field(
        default=(), max_length=64, description="Regions in which the data may be worked on."
    )


class Policy(Model):
    """What one sandbox may touch. Every default is the safe one."""

    schema_version: Literal[1] = Field(default=1, description="Version of this schema; required in files.")
    files: FilePolicy = Field(default_factory=FilePolicy, description="fs.*")
    network: NetworkPolicy = Field(default_factory=NetworkPolicy, description="net.*")
    syscalls: SyscallPolicy = Field(default_factory=SyscallPolicy, description="syscall.*")
    resources: ResourcePolicy = Field(default_factory=ResourcePolicy, description="resource.*")
    environment: EnvironmentPolicy = Field(default_factory=EnvironmentPolicy, description="process.environment")
    time: TimePolicy = Field(default_factory=TimePolicy, description="time.*")
    output: OutputPolicy = Field(default_factory=OutputPolicy, description="resource.output")
    secrets: dict[VariableName, SecretClause] = Field(default_factory=dict, max_length=64, description="secret.*")
    data: DataPolicy = Field(default_factory=DataPolicy, description="data.*")
    tools: dict[ToolName, ToolGrant] = Field(default_factory=dict, max_length=64, description="tool.*")
    observe: ObservePolicy = Field(default_factory=ObservePolicy, description="observe.*")
    require: dict[ControlId, Requirement] = Field(default_factory=dict, description="Stricter levels by control id.")
    relaxations: tuple[Relaxation, ...] = Field(
        default=(), max_length=64, description="Weaker terms, each with a reason."
    )
    driver_options: dict[Name, dict[str, JsonValue]] = Field(
        default_factory=dict, description="Options of one driver, by driver name; checked by that driver."
    )

    @field_validator("require")
    @classmethod
    def _stricter(cls, value: dict[str, Requirement]) -> dict[str, Requirement]:
        for control, wanted in value.items():
            least = CONTROLS[control].default
            if wanted.rank < least.rank:
                # The place is for the loader, which knows lines; pydantic has none below a field.
                text = "{control} would require less than the default ({least}); use a relaxation with a reason"
                context = {"control": control, "least": least.value, "place": ("require", control)}
                raise PydanticCustomError("weaker_requirement", text, context)
        return value

    @model_validator(mode="after")
    def _writable_for_a_reason(self) -> Self:
        granted = {item.source for item in self.relaxations if isinstance(item, WritableMount)}
        for index, mount in enumerate(self.files.mounts):
            if mount.access == "rw" and mount.source not in granted:
                place = ("files", "mounts", index, "access")
                text = "mount of {source} is rw without a writable-mount relaxation that says why"
                raise PydanticCustomError("unreasoned_mount", text, {"source": mount.source, "place": place})
        return self

    def with_tools(self, *names: str, grant: ToolGrant | None = None) -> Self:
        """Return this policy with a grant for each of the host functions ``names``, the default one unless given.

        A grant that is there already is replaced. Raises InvalidPolicyError for a name that none can have.
        """
        from pydantic import ValidationError

        from jubako.policy.load import invalid_policy

        given = grant or ToolGrant()
        try:
            return self.model_validate({**dict(self), "tools": {**self.tools, **dict.fromkeys(names, given)}})
        except ValidationError as error:
            raise invalid_policy(error) from error

    def requirement(self, control: str) -> Requirement:
        """Return the least level that a launch under this policy accepts for ``control``."""
        wanted = self.require.get(control, CONTROLS[control].default)
        for item in self.relaxations:
            if isinstance(item, AcceptWeaker) and item.control == control and item.accept.rank < wanted.rank:
                wanted = item.accept
        return wanted


class SandboxSpec(Model):
    """What a caller wants: the boundary, the policy and a few labels."""

    boundary: str = Field(default="auto", description="Kind of wall, or `auto` for the strongest that works here.")
    driver: Name | None = Field(
        default=None, description="A driver by name, instead of the boundary's first that works."
    )
    template: Name = Field(default="host", description="Root file system; `host` is the host's toolchain, read-only.")
    name: Name | None = Field(default=None, description="A name that no other live sandbox of this user has.")
    labels: dict[Name, Annotated[str, Field(max_length=256)]] = Field(
        default_factory=dict, max_length=32, description="Free labels, shown in lists and events."
    )
    preload: tuple[ModuleName, ...] = Field(
        default=(), max_length=64, description="Python modules imported once, before the first program."
    )
    policy: Policy = Field(default_factory=Policy, description="What the code may touch.")
