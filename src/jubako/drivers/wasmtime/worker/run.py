"""One program, from its command line to its exit: always in a process of its own."""

from __future__ import annotations

import ctypes
import errno
import os
import time

from . import capi
from .host import HostFunctions
from .programs import CannotRunError, Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .programs import Loaded

TRAPPED = 134
"""What a shell says of a program that aborted."""
_MEMORY, _TIME = "resource.memory", "time.exec"
_FLAG_MEMORY = 1 << 8
"""Set in the result of the Python component when a MemoryError or RecursionError ended the program."""


class Outcome:
    """How a program ended: its code, the controls that it ran into, what to say about it."""

    def __init__(self, code: int, limits: tuple[str, ...] = (), text: str = "") -> None:
        self.code = code
        self.limits = limits
        self.text = text


def run(engine: Engine, argv: list[str], env: dict[str, str], cwd: str) -> Outcome:
    """Run one program on descriptors 0 to 2 and return how it ended."""
    status = _Status()
    try:
        loaded = engine.find(argv[0], cwd)
    except CannotRunError as error:
        return Outcome(error.code, (), error.text)
    program = _Run(engine, loaded)
    before = status.data_bytes()
    try:
        outcome = Outcome(program.call(argv, {**env, "PWD": cwd}, cwd))
    except capi.EngineError as error:
        code = program.host.status
        outcome = _outcome(error, started=program.started) if code is None else Outcome(code)
    limit = engine.settings.memory
    if outcome.code > _FLAG_MEMORY - 1:
        outcome.limits = (_MEMORY,) if outcome.code & _FLAG_MEMORY else ()
        outcome.code &= 0xFF
    elif outcome.code and not outcome.limits and limit > 0 and status.data_bytes() - before > limit - limit // 8:
        outcome.limits = (_MEMORY,)  # control: resource.memory - it failed at its limit
    elif not outcome.limits and _no_descriptor_left():
        outcome.limits = ("resource.open-files",)
    return outcome


def _outcome(error: capi.EngineError, *, started: bool) -> Outcome:
    if error.status is not None:
        return Outcome(error.status & 0xFF)
    text, trap = error.message, error.trap
    for known, phrase, control, what in _TRAPS:
        if trap == known or phrase in text:
            return Outcome(TRAPPED, (control,), what + " limit reached: " + _reason(text))
    if any(phrase in text for phrase in _REFUSALS):
        return Outcome(TRAPPED, (_MEMORY,), "resource limit reached: " + _reason(text))
    return Outcome(TRAPPED if started else _NO_PROGRAM, (), _reason(text))


_TRAPS = (
    (capi.TRAP_STACK, "call stack exhausted", _MEMORY, "stack"),
    (capi.TRAP_INTERRUPT, "wasm trap: interrupt", _TIME, "time"),
    (capi.TRAP_FUEL, "all fuel consumed", _TIME, "fuel"),
)
_REFUSALS = ("exceeds memory limits", "exceeds table limits", "resource limit exceeded")
_NO_PROGRAM = 126


def _reason(text: str) -> str:
    """Return what went wrong without the addresses of the program's frames."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    if "Caused by:" in lines:
        causes = lines[lines.index("Caused by:") + 1 :]
        head = [] if lines[0].startswith("error while executing") else lines[:1]
        lines = head + [cause.partition(": ")[2] if cause[:1].isdigit() else cause for cause in causes]
    elif lines[0].startswith("error while executing"):
        lines = lines[-1:]
    return ": ".join(dict.fromkeys(lines))[:2000]


class _Status:
    """What the kernel says about this process; opened before a program can use up all descriptors."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)

    def data_bytes(self) -> int:
        """Return the private writable memory, linear memories included, touched or not."""
        for line in os.pread(self._fd, 4096, 0).splitlines():
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) * 1024
        return 0


def _no_descriptor_left() -> bool:
    """Whether the program, whose files are still open, holds all descriptors that there may be."""
    try:
        os.close(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EMFILE  # control: resource.open-files
    return False


class _Run:
    """A store and what goes into it."""

    def __init__(self, engine: Engine, loaded: Loaded) -> None:
        self._engine = engine
        self._library = engine.library
        self._loaded = loaded
        self.host = HostFunctions(engine.library, engine.settings)
        self.started = False
        """Its own code has begun to run; before that it is a program that can't run."""
        self._keep: list[object] = []
        """What the library points to and does not own."""

    def call(self, argv: list[str], env: dict[str, str], cwd: str) -> int:
        """Return the program's own exit code. Raises EngineError."""
        settings, library = self._engine.settings, self._library
        store = library.wasmtime_store_new(self._engine.handle, None, None)
        context = library.wasmtime_store_context(store)
        library.wasmtime_store_limiter(  # control: resource.memory
            store, settings.memory, settings.table_elements, settings.instances, settings.tables, settings.memories
        )
        library.check(library.wasmtime_context_set_wasi(context, self._wasi(argv, env, cwd)))
        self._deadline(context)
        if self._loaded.component:
            return self._component(context, argv)
        return self._core(context)

    def _deadline(self, context: int) -> None:
        """Let the engine stop the program a little after the host should have: a second way to end a loop."""
        seconds, library, handle = self._engine.settings.seconds, self._library, self._engine.handle
        library.wasmtime_context_set_epoch_deadline(context, 1)
        if self._engine.settings.fuel:
            library.check(library.wasmtime_context_set_fuel(context, self._engine.settings.fuel))

        def tick() -> None:
            time.sleep(seconds)
            library.wasmtime_engine_increment_epoch(handle)  # control: time.exec

        import _thread

        _thread.start_new_thread(tick, ())

    def _wasi(self, argv: list[str], env: dict[str, str], cwd: str) -> int:
        """Return what the program sees of the world: nothing that is not named here."""
        library = self._library
        config = library.wasi_config_new()
        words = [_c_string(word) for word in argv]
        library.wasi_config_set_argv(config, len(words), capi.array(words))
        names, values = [_c_string(name) for name in env], [_c_string(value) for value in env.values()]
        library.wasi_config_set_env(config, len(names), capi.array(names), capi.array(values))
        library.wasi_config_inherit_stdin(config)
        library.wasi_config_inherit_stdout(config)
        library.wasi_config_inherit_stderr(config)
        preopens = [(top, top, writable) for top, writable in self._engine.settings.preopens]
        if self._loaded.kind == "core-command":
            # Without a working directory of its own, a module of preview 1 looks up relative names here.
            writable = any(flag for top, flag in self._engine.settings.preopens if (cwd + "/").startswith(top + "/"))
            preopens.insert(0, (cwd, ".", writable))
        for host, guest, writable in preopens:  # control: fs.host-hidden
            if not library.wasi_config_preopen_dir(config, host.encode(), guest.encode(), writable):
                msg = f"{host} can't be opened"
                raise capi.EngineError(msg)
        return int(config)

    def _component(self, context: int, argv: list[str]) -> int:
        library = self._library
        linker = library.wasmtime_component_linker_new(self._engine.handle)
        library.check(library.wasmtime_component_linker_add_wasip2(linker))
        self.host.define_for_component(linker, self._imports())
        instance = capi.Opaque()
        library.check(
            library.wasmtime_component_linker_instantiate(linker, context, self._loaded.handle, ctypes.byref(instance))
        )
        own = self._loaded.kind == "component-python"
        function = self._export(context, instance, [b"run"] if own else [b"wasi:cli/run@0.2.0", b"run"])
        self.started = True
        result = capi.Val()
        arguments, count = (self._word_list(argv), 1) if own else (None, 0)
        library.check(
            library.wasmtime_component_func_call(
                ctypes.byref(function), context, arguments, count, ctypes.byref(result), 1
            )
        )
        return int(result.of.s32) if own else int(not result.of.result.ok)

    def _imports(self) -> list[str]:
        """Return the names of what the component imports."""
        library, engine = self._library, self._engine.handle
        kind = library.wasmtime_component_type(self._loaded.handle)
        names: list[str] = []
        for index in range(library.wasmtime_component_type_import_count(kind, engine)):
            name, size, item = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_void_p()
            if library.wasmtime_component_type_import_nth(
                kind, engine, index, ctypes.byref(name), ctypes.byref(size), ctypes.byref(item)
            ):
                names.append(ctypes.string_at(name, size.value).decode("utf-8", "replace"))
        return names

    def _export(self, context: int, instance: Any, path: list[bytes]) -> Any:
        index = None
        for name in path:
            index = self._library.wasmtime_component_instance_get_export_index(
                ctypes.byref(instance),
                context,
                index,
                name,
                len(name),
            )
            if not index:
                raise capi.EngineError("the component has no export " + name.decode())
        function = capi.Opaque()
        if not self._library.wasmtime_component_instance_get_func(
            ctypes.byref(instance),
            context,
            index,
            ctypes.byref(function),
        ):
            msg = f"the component's export {path[-1].decode()} is not a function"
            raise capi.EngineError(msg)
        return function

    def _word_list(self, argv: list[str]) -> Any:
        library = self._library
        words = (capi.Val * len(argv))()
        for word, text in zip(words, argv):
            library.string(word, _c_string(text))
        argument = capi.Val(kind=capi.VAL_LIST)
        library.wasmtime_component_vallist_new(ctypes.byref(argument.of.vec), len(argv), words)
        self._keep.append(argument)
        return ctypes.byref(argument)

    def _core(self, context: int) -> int:
        library = self._library
        linker = library.wasmtime_linker_new(self._engine.handle)
        library.check(library.wasmtime_linker_define_wasi(linker))
        self.host.define_for_core(linker)
        for name, handle in self._loaded.libraries:
            instance = self._instantiate(linker, context, handle)
            initialise = self._core_export(context, instance, b"_initialize")
            if initialise is not None:
                self._call_core(context, initialise)
            text = name.encode()
            library.check(
                library.wasmtime_linker_define_instance(linker, context, text, len(text), ctypes.byref(instance))
            )
        instance = self._instantiate(linker, context, self._loaded.handle)
        item = self._core_export(context, instance, b"_start")
        if item is None:
            raise capi.EngineError("the module exports no _start function")
        if item.kind != capi.EXTERN_FUNC:
            raise capi.EngineError("the module's export _start is not a function")
        self.started = True
        self._call_core(context, item)
        return 0

    def _instantiate(self, linker: int, context: int, handle: int) -> Any:
        library, instance, trap = self._library, capi.Opaque(), ctypes.c_void_p()
        library.check(
            library.wasmtime_linker_instantiate(linker, context, handle, ctypes.byref(instance), ctypes.byref(trap))
        )
        library.check_trap(trap)
        return instance

    def _core_export(self, context: int, instance: Any, name: bytes) -> Any:
        """Return what an instance exports under a name, or None."""
        item, library = capi.Extern(), self._library
        found = library.wasmtime_instance_export_get(
            context, ctypes.byref(instance), name, len(name), ctypes.byref(item)
        )
        return item if found else None

    def _call_core(self, context: int, function: Any) -> None:
        library, trap = self._library, ctypes.c_void_p()
        library.check(
            library.wasmtime_func_call(context, ctypes.byref(function.of), None, 0, None, 0, ctypes.byref(trap))
        )
        library.check_trap(trap)


def _c_string(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
