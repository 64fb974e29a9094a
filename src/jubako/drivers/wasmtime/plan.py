"""The pure half of the driver: how two walls, WebAssembly inside a jail, meet each control."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jubako._lib.levels import Enforcement
from jubako.boundary.card import common_controls
from jubako.boundary.contract import BoundaryKind, ControlResult, Plan
from jubako.drivers.wasmtime.options import NAME, Options, parse_options
from jubako.errors import InvalidPolicyError
from jubako.guest import SessionConfig
from jubako.jail.bubblewrap import check_expressible, jail_controls, jail_payload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jubako.boundary.contract import ProbeReport
    from jubako.policy import Policy, SandboxSpec

__all__ = ["make_plan"]

_ENFORCED: Final = Enforcement.ENFORCED
_SHARED: Final = (
    "the host kernel, for what the worker's WASI functions call (behind the system call filter)",
    "wasmtime's compiler and runtime, whose mistakes the jail around the worker must hold",
    "CPU caches and other hardware side channels",
)
_TABLE_ELEMENTS, _INSTANCES, _TABLES, _MEMORIES = 1_000_000, 128, 64, 16
_MODULE_BYTES: Final = 64 * 1024 * 1024
_RESERVE: Final = 16 * 1024 * 1024
"""Kept of the sandbox's memory for the agent and the worker, so that a program sees its own limit first."""
_TASKS: Final = 8
"""Threads that the worker needs for one program; the program itself can make none."""

# What the first wall does; the jail's mechanism behind it is added.
_FIRST_WALL: Final = {
    "fs.host-hidden": "WASI: programs see preopened directories only",
    "fs.ro-root": "WASI: there is no root, only preopened directories",
    "fs.mounts": "WASI: preopened with the access listed",
    "fs.workspace": "WASI: preopened",
    "fs.private-tmp": "WASI: /tmp preopened, no /dev/shm",
    "fs.devices": "WASI: no devices",
    "fs.proc": "WASI: no /proc",
    "net.default-deny": "WASI: no address may be used",
    "net.sockets": "WASI: no sockets can be connected or bound",
    "syscall.allowlist": "no system call reaches the program, WASI functions only",
    "syscall.capabilities": "WASI: none exist",
    "syscall.no-new-privileges": "WASI: no exec",
    "syscall.no-nested-namespaces": "WASI: no namespaces",
    "syscall.terminal-injection": "WASI: no ioctl",
    "process.isolation": "WASI: no processes; each program in a worker process of its own",
    "process.ipc": "WASI: no IPC",
    "process.identity": "WASI: no users",
    "process.environment": "WASI: only what is given",
    "process.descriptors": "WASI: only what is given",
    "resource.memory": "limit of each program's linear memories, tables and stack",
    "resource.processes": "WASI: programs can't make processes or threads",
    "resource.cpu": "",
    "resource.open-files": "",
    "resource.disk": "",
    "resource.inodes": "",
}


def make_plan(spec: SandboxSpec, report: ProbeReport) -> Plan:
    """Say how each control of ``spec`` is met on the machine of ``report``.

    Raises:
        InvalidPolicyError: The policy asks for something that can't be expressed.
    """
    policy = spec.policy
    check_expressible(spec, NAME, options=True)
    if spec.preload:
        raise InvalidPolicyError(
            "the WebAssembly boundary has no preloaded interpreters: its Python starts initialised",
            hint="remove preload",
            details={"field": "preload"},
        )
    options = parse_options(policy.driver_options.get(NAME, {}))
    controls = [_two_walls(item) for item in jail_controls(policy, report.facts)]
    return Plan(
        driver=NAME,
        boundary=BoundaryKind.WASM,
        spec=spec,
        controls=(*controls, *common_controls(policy, report.features)),
        features=report.features,
        payload={
            **jail_payload(policy, report.facts),
            "shared": _SHARED,
            "tasks": _TASKS,
            "worker": _worker(policy, options),
            "modules": dict(options.modules),
        },
    )


def _two_walls(jail: ControlResult) -> ControlResult:
    first = _FIRST_WALL.get(jail.control, "")
    if not first:
        return jail
    level = _ENFORCED if jail.control in _HELD_ALONE else jail.level
    return replace(jail, level=level, mechanism=f"{first}; behind it {jail.mechanism}")


_HELD_ALONE: Final = frozenset({"process.identity", "resource.processes"})
"""Where the first wall holds whatever the jail can do."""


def _worker(policy: Policy, options: Options) -> Mapping[str, object]:
    """Return the worker's settings as far as they are known now, by the names that the worker knows."""
    files = policy.files
    preopens = [("rw", files.workspace), ("rw", "/tmp"), *((item.access, item.target) for item in files.mounts)]  # noqa: S108  # a path inside
    memory = policy.resources.memory
    settings: dict[str, object] = {
        "preopen": [f"{access}:{path}" for access, path in preopens],
        "memory": max(memory - _RESERVE, memory // 2),
        "table_elements": _TABLE_ELEMENTS,
        "instances": _INSTANCES,
        "tables": _TABLES,
        "memories": _MEMORIES,
        "module_bytes": min(_MODULE_BYTES, memory // 4),
        "seconds": policy.time.exec,
    }
    if policy.tools:
        settings["tools"] = SessionConfig().tools
    if options.clock is not None:
        settings["clock"] = options.clock
    if options.random_seed is not None:
        settings["random"] = options.random_seed
    return settings
