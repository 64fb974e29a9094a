"""What programs can import beside WASI: tool calls, and a clock and a random source that repeat themselves.

Every function here is called by hostile code: it checks what it is given, and an error of its own
becomes a trap of the program.
"""

from __future__ import annotations

import ctypes
import json

from . import capi, tools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .capi import Library
    from .settings import Settings

    ComponentFunction = Callable[[Any, Any], None]
    CoreFunction = Callable[[int, list[int]], int]

_MAX_NAME = 64
_MAX_ARGUMENTS = 1 << 20
_MAX_RANDOM = 1 << 20
_STEP = 1000000
"""Nanoseconds by which the deterministic monotonic clock moves at every look."""
_I32, _I64 = capi.I32, capi.I64
_OK, _FAULT, _INVALID = 0, 21, 28
"""WASI errno: success, fault, inval."""


class _Exited(Exception):  # noqa: N818  # not an error
    """Unwinds the program that asked to end."""


class Random:
    """A deterministic source: SplitMix64, for repeatable runs and not for secrets."""

    def __init__(self, seed: int) -> None:
        self._state = seed & 0xFFFFFFFFFFFFFFFF

    def number(self) -> int:
        """Return the next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        value = self._state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return value ^ (value >> 31)

    def data(self, size: int) -> bytes:
        """Return that many bytes."""
        words = (self.number().to_bytes(8, "little") for _ in range((size + 7) // 8))
        return b"".join(words)[:size]


class Memory:
    """The memory that a core module exports, with every access checked against its size."""

    def __init__(self, library: Library, caller: int) -> None:
        self._library = library
        item = capi.Extern()
        context = library.wasmtime_caller_context(caller)
        if not library.wasmtime_caller_export_get(caller, b"memory", 6, ctypes.byref(item)):
            raise ValueError("the module exports no memory")
        if item.kind != capi.EXTERN_MEMORY:
            raise ValueError("the module's export memory is not a memory")
        # Asked for at every call: the program may have grown it since.
        self._size = library.wasmtime_memory_data_size(context, ctypes.byref(item.of))
        self._base = library.wasmtime_memory_data(context, ctypes.byref(item.of))

    def _at(self, offset: int, size: int) -> int:
        offset &= 0xFFFFFFFF
        if size < 0 or offset + size > self._size:
            raise ValueError("an address outside of the module's memory")
        return int(self._base) + offset

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of it. Raises ValueError outside of it."""
        return ctypes.string_at(self._at(offset, size), size)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes into it. Raises ValueError outside of it."""
        ctypes.memmove(self._at(offset, len(data)), data, len(data))


class HostFunctions:
    """Defines the functions in a linker; keeps alive what the library only points to."""

    def __init__(self, library: Library, settings: Settings) -> None:
        self._library = library
        self._settings = settings
        self._keep: list[object] = []
        self._random = Random(settings.random)
        self._monotonic = 0
        self._answer = b""
        self.status: int | None = None
        """The exit code, once the program has asked to end at once."""

    # -- components -------------------------------------------------------------------------

    def define_for_component(self, linker: int, imports: list[str]) -> None:
        """Define what is asked for; the rest of WASI stays the library's.

        An interface is replaced as a whole or not at all. So the monotonic clock of components stays the
        library's: it also makes what programs sleep by, which only the library can.
        """
        library = self._library
        library.wasmtime_component_linker_allow_shadowing(linker, True)
        root = library.wasmtime_component_linker_root(linker)
        for name in imports:
            functions = self._component_functions(name)
            if not functions:
                continue
            instance = ctypes.c_void_p()
            text = name.encode()
            library.check(
                library.wasmtime_component_linker_instance_add_instance(root, text, len(text), ctypes.byref(instance))
            )
            for function_name, function in functions:
                self._add(instance, function_name, function)
            library.wasmtime_component_linker_instance_delete(instance)
        library.wasmtime_component_linker_instance_delete(root)

    def _component_functions(self, name: str) -> list[tuple[bytes, ComponentFunction]]:
        interface = name.split("@", 1)[0]
        if interface == "jubako:guest/tools":
            return [(b"call", self._call_tool)]
        if interface == "jubako:guest/process":
            return [(b"exit", self._exit)]
        if self._settings.clock >= 0 and interface == "wasi:clocks/wall-clock":
            return [(b"now", self._wall_clock), (b"resolution", self._wall_resolution)]
        if self._settings.random >= 0:
            number, data, seed = self._random_number, self._random_data, self._random_seed
            table: dict[str, list[tuple[bytes, ComponentFunction]]] = {
                "wasi:random/random": [(b"get-random-bytes", data), (b"get-random-u64", number)],
                "wasi:random/insecure": [(b"get-insecure-random-bytes", data), (b"get-insecure-random-u64", number)],
                "wasi:random/insecure-seed": [(b"insecure-seed", seed)],
            }
            return table.get(interface, [])
        return []

    def _add(self, instance: ctypes.c_void_p, name: bytes, function: ComponentFunction) -> None:
        library = self._library

        def enter(_data: Any, _context: Any, _type: Any, arguments: Any, count: int, results: Any, room: int) -> int:
            try:
                given = (capi.Val * count).from_address(arguments) if count else ()
                function(given, (capi.Val * room).from_address(results)[0] if room else None)
            except Exception as error:  # noqa: BLE001  # no exception may pass through the library: it traps
                return int(library.wasmtime_error_new(str(error).encode() + b"\0"))
            return 0

        callback = capi.ComponentCallback(enter)
        self._keep.append(callback)
        library.check(
            library.wasmtime_component_linker_instance_add_func(
                instance, name, len(name), ctypes.cast(callback, ctypes.c_void_p), None, None
            )
        )

    def _exit(self, arguments: Any, _result: Any) -> None:
        self.status = arguments[0].of.s32 & 0xFF
        raise _Exited("exit")

    def _call_tool(self, arguments: Any, result: Any) -> None:
        ok, text = self._tool(capi.string_of(arguments[0]), capi.string_of(arguments[1]))
        value = capi.Val()
        self._library.string(value, text)
        result.kind = capi.VAL_RESULT
        result.of.result.ok = ok
        result.of.result.val = self._library.wasmtime_component_val_new(ctypes.byref(value))

    def _wall_clock(self, _arguments: Any, result: Any) -> None:
        self._datetime(result, self._settings.clock)

    def _wall_resolution(self, _arguments: Any, result: Any) -> None:
        self._datetime(result, 1)

    def _datetime(self, result: Any, nanoseconds: int) -> None:
        entries = (capi.Entry * 2)()
        for entry, name in zip(entries, (b"seconds", b"nanoseconds")):
            self._library.wasm_byte_vec_new(ctypes.byref(entry.name), len(name), name)
        entries[0].val.kind, entries[0].val.of.u64 = capi.VAL_U64, nanoseconds // 10**9
        entries[1].val.kind, entries[1].val.of.u32 = capi.VAL_U32, nanoseconds % 10**9
        result.kind = capi.VAL_RECORD
        self._library.wasmtime_component_valrecord_new(ctypes.byref(result.of.vec), 2, entries)

    def _random_number(self, _arguments: Any, result: Any) -> None:
        result.kind, result.of.u64 = capi.VAL_U64, self._random.number()

    def _random_data(self, arguments: Any, result: Any) -> None:
        data = self._random.data(_bounded(arguments[0].of.u64))
        values = (capi.Val * len(data))()
        for value, byte in zip(values, data):
            value.kind, value.of.u8 = capi.VAL_U8, byte
        result.kind = capi.VAL_LIST
        self._library.wasmtime_component_vallist_new(ctypes.byref(result.of.vec), len(data), values)

    def _random_seed(self, _arguments: Any, result: Any) -> None:
        values = (capi.Val * 2)()
        for value in values:
            value.kind, value.of.u64 = capi.VAL_U64, self._random.number()
        result.kind = capi.VAL_TUPLE
        self._library.wasmtime_component_valtuple_new(ctypes.byref(result.of.vec), 2, values)

    # -- core modules -----------------------------------------------------------------------

    def define_for_core(self, linker: int) -> None:
        """Define the module ``jubako``, and replace clocks and random numbers where that is asked for."""
        self._library.wasmtime_linker_allow_shadowing(linker, True)
        self._core(linker, b"jubako", b"call", (_I32, _I32, _I32, _I32), self._core_call)
        self._core(linker, b"jubako", b"answer", (_I32, _I32), self._core_answer)
        wasi = b"wasi_snapshot_preview1"
        # The library's own takes no code above 125.
        self._core(linker, wasi, b"proc_exit", (_I32,), self._core_exit, returns=False)
        if self._settings.clock >= 0:
            self._core(linker, wasi, b"clock_time_get", (_I32, _I64, _I32), self._core_clock)
        if self._settings.random >= 0:
            self._core(linker, wasi, b"random_get", (_I32, _I32), self._core_random)

    def _core(
        self,
        linker: int,
        module: bytes,
        name: bytes,
        kinds: tuple[int, ...],
        function: CoreFunction,
        *,
        returns: bool = True,
    ) -> None:
        library = self._library

        def enter(_data: Any, caller: int, arguments: Any, count: int, results: Any, room: int) -> int:
            try:
                given = (capi.Number * count).from_address(arguments)
                values = [item.of.i32 if item.kind == _I32 else item.of.i64 for item in given]
                answer = function(caller, values)
                if room:
                    result = (capi.Number * room).from_address(results)[0]
                    result.kind, result.of.i32 = _I32, answer
            except Exception as error:  # noqa: BLE001  # no exception may pass through the library: it traps
                text = str(error).encode()
                return int(library.wasmtime_trap_new(text, len(text)))
            return 0

        callback = capi.CoreCallback(enter)
        self._keep.append(callback)
        kind = library.wasm_functype_new(self._types(kinds), self._types((_I32,) if returns else ()))
        library.check(
            library.wasmtime_linker_define_func(
                linker, module, len(module), name, len(name), kind, ctypes.cast(callback, ctypes.c_void_p), None, None
            )
        )

    def _types(self, kinds: tuple[int, ...]) -> object:
        vec = capi.Vec()
        items = (ctypes.c_void_p * len(kinds))(*(self._library.wasm_valtype_new(kind) for kind in kinds))
        self._library.wasm_valtype_vec_new(ctypes.byref(vec), len(kinds), items)
        return ctypes.byref(vec)

    def _core_exit(self, _caller: int, values: list[int]) -> int:
        self.status = values[0] & 0xFF
        raise _Exited("exit")

    def _core_call(self, caller: int, values: list[int]) -> int:
        memory = Memory(self._library, caller)
        name, arguments = memory.read(values[0], values[1]), memory.read(values[2], values[3])
        ok, self._answer = self._tool(name, arguments)
        return len(self._answer) if ok else -len(self._answer) - 1

    def _core_answer(self, caller: int, values: list[int]) -> int:
        memory = Memory(self._library, caller)
        data = self._answer[: values[1]] if values[1] >= 0 else b""
        memory.write(values[0], data)
        return len(data)

    def _core_clock(self, caller: int, values: list[int]) -> int:
        memory = Memory(self._library, caller)
        if not 0 <= values[0] <= 3:
            return _INVALID
        now = self._settings.clock if values[0] == 0 else self._tick()
        memory.write(values[2], now.to_bytes(8, "little"))
        return _OK

    def _core_random(self, caller: int, values: list[int]) -> int:
        memory = Memory(self._library, caller)
        memory.write(values[0], self._random.data(_bounded(values[1])))
        return _OK

    # -- both -------------------------------------------------------------------------------

    def _tick(self) -> int:
        self._monotonic += _STEP
        return self._monotonic

    def _tool(self, name: bytes, arguments: bytes) -> tuple[bool, bytes]:
        """Return whether a tool answered, and its answer or the error as JSON."""
        if len(name) > _MAX_NAME or len(arguments) > _MAX_ARGUMENTS:
            text = f"the arguments of a call may have {_MAX_ARGUMENTS} bytes, its name {_MAX_NAME}"
            return False, json.dumps({"code": "tool-request-too-large", "message": text}).encode()
        return tools.call(self._settings.tools, name, arguments)


def _bounded(size: int) -> int:
    if not 0 <= size <= _MAX_RANDOM:
        raise ValueError("more random bytes at once than can be had")
    return size
