"""The ``wasmtime`` driver: WebAssembly in a worker, the worker in a bubblewrap jail."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, cast

from anyio import to_thread

from jubako.boundary.contract import BoundaryKind
from jubako.drivers.wasmtime.artifacts import javascript_program, python_program, user_program
from jubako.drivers.wasmtime.instance import WasmInstance
from jubako.drivers.wasmtime.options import NAME
from jubako.drivers.wasmtime.plan import make_plan
from jubako.drivers.wasmtime.probe import library_path, probe_wasm
from jubako.drivers.wasmtime.shelf import reachable
from jubako.drivers.wasmtime.worker_bundle import (
    LIBRARY,
    WORKER,
    bundle_worker,
    file_name,
    library_name,
    worker_launcher,
)
from jubako.errors import DriverUnavailableError, InvalidRequestError
from jubako.jail.bubblewrap import Fittings, JailDriver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jubako.boundary.contract import DriverContext, Instance, Plan, ProbeReport
    from jubako.drivers.wasmtime.artifacts import Program
    from jubako.guest import SessionConfig
    from jubako.jail.bubblewrap import Machine
    from jubako.policy import SandboxSpec

__all__ = ["WasmtimeDriver"]

_Named = tuple[tuple[str, ...], "Program"]
_PYTHON: Final = ("python", "python3")
_SCRIPT: Final = ("js", "javascript")
_OWN_FILES: Final = 8
"""Descriptors that the worker holds open in each program for itself."""
_MAX_MODULE: Final = 64 * 1024 * 1024


class WasmtimeDriver(JailDriver):
    """Runs programs as WebAssembly: Python, JavaScript, modules; each in a process of its own, in a jail."""

    name: ClassVar[str] = NAME
    boundary: ClassVar[BoundaryKind] = BoundaryKind.WASM

    def __init__(self) -> None:
        super().__init__()
        self._worker: bytes | None = None
        self._library: Path | None = None
        self._programs: dict[str, _Named] = {}
        self._shown: dict[Path, Path] = {}

    def _probe(self) -> Machine:
        return probe_wasm()

    def plan(self, spec: SandboxSpec, report: ProbeReport) -> Plan:
        """Say how each control would be met. Raises InvalidPolicyError."""
        return make_plan(spec, report)

    async def create(self, plan: Plan, ctx: DriverContext) -> Instance:
        """Prepare a sandbox; at a machine's first one Python is built, which takes some 15 seconds.

        Raises:
            DriverUnavailableError: This machine can't do it; details list the reasons.
            InvalidPolicyError: The policy names an unknown system call.
            InvalidRequestError: A module that the policy names can't be read or compiled.
            LaunchError: A program could not be built.
        """
        machine = await self._usable()
        programs = await self._granted(plan, machine)
        if self._worker is None:
            self._worker = await to_thread.run_sync(bundle_worker, machine.python)
        binds = {file_name(program): str(await self._show(program.cwasm, machine)) for _, program in programs.values()}
        for _, program in programs.values():
            for _, path in program.libraries:
                binds[library_name(path)] = str(await self._show(path, machine))
        binds[LIBRARY] = str(await self._show(self._library_path(), machine))
        processes = _tasks(plan)
        return WasmInstance(
            plan,
            ctx,
            machine,
            agent=await self._bundle(machine),
            config=self._configure(plan, machine, programs, processes),
            fittings=Fittings(binds=binds, files={WORKER: self._worker}, processes=processes),
        )

    async def _granted(self, plan: Plan, machine: Machine) -> Mapping[str, _Named]:
        """Return the programs of this sandbox, built or compiled if this machine has them not yet."""
        if "python" not in self._programs:
            self._programs["python"] = (_PYTHON, await python_program())
        if machine.report.facts.get("language.js") and "js" not in self._programs:
            self._programs["js"] = (_SCRIPT, await javascript_program())
        programs = dict(self._programs)
        for name, path in cast("Mapping[str, str]", plan.payload["modules"]).items():
            programs[f"module {name}"] = ((name,), await user_program(await to_thread.run_sync(_read, name, path)))
        return programs

    def _library_path(self) -> Path:
        path = self._library = self._library or library_path()
        if path is None:
            raise DriverUnavailableError("the package wasmtime has gone", details={"driver": self.name})
        return path

    async def _show(self, path: Path, machine: Machine) -> Path:
        if path not in self._shown:
            self._shown[path] = await to_thread.run_sync(lambda: reachable(path, jailed_apart=bool(machine.drop)))
        return self._shown[path]

    def _configure(self, plan: Plan, machine: Machine, programs: Mapping[str, _Named], processes: int) -> SessionConfig:
        """Return what the agent is told: the jail's, and that the worker runs every program."""
        config = self._told(plan, machine)
        rlimits = {
            number: pair
            for number, pair in config.rlimits.items()
            # WebAssembly memories reserve gigabytes of addresses, of which they use what their own limit allows.
            if number != resource.RLIMIT_AS
        }
        rlimits[resource.RLIMIT_NPROC] = (processes, processes)
        files = plan.spec.policy.resources.open_files + _OWN_FILES
        rlimits[resource.RLIMIT_NOFILE] = (files, files)
        settings = dict(cast("Mapping[str, object]", plan.payload["worker"]))
        return replace(config, rlimits=rlimits, launcher=worker_launcher(machine.python, programs, settings))


def _tasks(plan: Plan) -> int:
    """Return how many threads the sandbox may have, so that the policy's number of programs fits."""
    return plan.spec.policy.resources.processes * cast("int", plan.payload["tasks"]) + 64


def _read(name: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_MODULE + 1)
    except OSError as error:
        msg = f"module {name!r}: {path}: {error.strerror}"
        raise InvalidRequestError(msg, details={"module": name, "path": path}) from error
    if len(data) > _MAX_MODULE:
        msg = f"module {name!r}: {path} is larger than {_MAX_MODULE} bytes"
        raise InvalidRequestError(msg, details={"module": name, "path": path})
    return data
