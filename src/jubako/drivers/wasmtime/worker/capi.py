"""The part of wasmtime's C interface that the worker uses, called through ``ctypes``.

The ``wasmtime`` package declares the whole interface when it is imported, which takes ten times as
long as loading the library itself; every sandbox would pay for that at its start. What stands here is
the interface of the versions that the driver's probe accepts; a test compares it with the package's.
"""

from __future__ import annotations

import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TRAP_STACK, TRAP_INTERRUPT, TRAP_FUEL = 0, 10, 11
EXTERN_FUNC, EXTERN_MEMORY = 0, 3
I32, I64 = 0, 1
VAL_S32, VAL_U8, VAL_U32, VAL_U64 = 5, 2, 6, 8
VAL_STRING, VAL_LIST, VAL_RECORD, VAL_TUPLE, VAL_RESULT = 12, 13, 14, 15, 19

Opaque = ctypes.c_uint64 * 4
"""Memory for what names a function, an instance or a memory within a store: 16 to 32 bytes."""


class Vec(ctypes.Structure):
    """``wasm_byte_vec_t`` and its likes."""

    _fields_ = [("size", ctypes.c_size_t), ("data", ctypes.c_void_p)]


class Extern(ctypes.Structure):
    """``wasmtime_extern_t``; its union has 24 bytes."""

    _fields_ = [("kind", ctypes.c_uint8), ("of", ctypes.c_uint64 * 3)]


class _Number(ctypes.Union):
    _fields_ = [("i32", ctypes.c_int32), ("i64", ctypes.c_int64), ("room", ctypes.c_uint64 * 3)]


class Number(ctypes.Structure):
    """``wasmtime_val_t``, used for numbers only."""

    _fields_ = [("kind", ctypes.c_uint8), ("of", _Number)]


class _Result(ctypes.Structure):
    _fields_ = [("ok", ctypes.c_bool), ("val", ctypes.c_void_p)]


class _Of(ctypes.Union):
    _fields_ = [
        ("s32", ctypes.c_int32),
        ("u8", ctypes.c_uint8),
        ("u32", ctypes.c_uint32),
        ("u64", ctypes.c_uint64),
        ("vec", Vec),
        ("result", _Result),
        ("room", ctypes.c_uint64 * 3),
    ]


class Val(ctypes.Structure):
    """``wasmtime_component_val_t``."""

    _fields_ = [("kind", ctypes.c_uint8), ("of", _Of)]


class Entry(ctypes.Structure):
    """``wasmtime_component_valrecord_entry_t``."""

    _fields_ = [("name", Vec), ("val", Val)]


_pointer = ctypes.c_void_p
ComponentCallback = ctypes.CFUNCTYPE(
    ctypes.c_size_t, _pointer, _pointer, _pointer, _pointer, ctypes.c_size_t, _pointer, ctypes.c_size_t
)
"""data, context, type, arguments, their number, results, their number; returns an error or 0."""
CoreCallback = ctypes.CFUNCTYPE(
    ctypes.c_size_t, _pointer, _pointer, _pointer, ctypes.c_size_t, _pointer, ctypes.c_size_t
)
"""data, caller, arguments, their number, results, their number; returns a trap or 0."""

_CODES: dict[str, Any] = {
    "v": None,
    "p": ctypes.c_void_p,
    "z": ctypes.c_char_p,
    "n": ctypes.c_size_t,
    "b": ctypes.c_bool,
    "c": ctypes.c_uint8,
    "i": ctypes.c_int32,
    "q": ctypes.c_int64,
    "Q": ctypes.c_uint64,
}

# Result first, then the arguments.
_FUNCTIONS = {
    "wasi_config_inherit_stderr": "vp",
    "wasi_config_inherit_stdin": "vp",
    "wasi_config_inherit_stdout": "vp",
    "wasi_config_new": "p",
    "wasi_config_preopen_dir": "bpzzb",
    "wasi_config_set_argv": "bpnp",
    "wasi_config_set_env": "bpnpp",
    "wasi_config_set_stdin_file": "bpz",
    "wasm_byte_vec_delete": "vp",
    "wasm_byte_vec_new": "vpnz",
    "wasm_config_new": "p",
    "wasm_engine_new_with_config": "pp",
    "wasm_functype_new": "ppp",
    "wasm_trap_message": "vpp",
    "wasm_valtype_new": "pc",
    "wasm_valtype_vec_new": "vpnp",
    "wasmtime_caller_context": "pp",
    "wasmtime_caller_export_get": "bpznp",
    "wasmtime_component_deserialize_file": "ppzp",
    "wasmtime_component_func_call": "ppppnpn",
    "wasmtime_component_instance_get_export_index": "ppppzn",
    "wasmtime_component_instance_get_func": "bpppp",
    "wasmtime_component_linker_add_wasip2": "pp",
    "wasmtime_component_linker_allow_shadowing": "vpb",
    "wasmtime_component_linker_instance_add_func": "ppznppp",
    "wasmtime_component_linker_instance_add_instance": "ppznp",
    "wasmtime_component_linker_instance_delete": "vp",
    "wasmtime_component_linker_instantiate": "ppppp",
    "wasmtime_component_linker_new": "pp",
    "wasmtime_component_linker_root": "pp",
    "wasmtime_component_new": "ppznp",
    "wasmtime_component_type": "pp",
    "wasmtime_component_type_import_count": "npp",
    "wasmtime_component_type_import_nth": "bppnppp",
    "wasmtime_component_val_new": "pp",
    "wasmtime_component_vallist_new": "vpnp",
    "wasmtime_component_valrecord_new": "vpnp",
    "wasmtime_component_valtuple_new": "vpnp",
    "wasmtime_context_set_epoch_deadline": "vpQ",
    "wasmtime_context_set_fuel": "ppQ",
    "wasmtime_context_set_wasi": "ppp",
    "wasmtime_engine_increment_epoch": "vp",
    "wasmtime_error_exit_status": "bpp",
    "wasmtime_error_message": "vpp",
    "wasmtime_error_new": "pz",
    "wasmtime_func_call": "ppppnpnp",
    "wasmtime_instance_export_get": "bppznp",
    "wasmtime_linker_allow_shadowing": "vpb",
    "wasmtime_linker_define_func": "ppznznpppp",
    "wasmtime_linker_define_instance": "pppznp",
    "wasmtime_linker_define_wasi": "pp",
    "wasmtime_linker_instantiate": "pppppp",
    "wasmtime_linker_new": "pp",
    "wasmtime_memory_data": "ppp",
    "wasmtime_memory_data_size": "npp",
    "wasmtime_module_deserialize_file": "ppzp",
    "wasmtime_module_new": "ppznp",
    "wasmtime_store_context": "pp",
    "wasmtime_store_limiter": "vpqqqqq",
    "wasmtime_store_new": "pppp",
    "wasmtime_trap_code": "bpp",
    "wasmtime_trap_new": "pzn",
}


class EngineError(Exception):
    """What the library refused or stopped: ``status`` for a program's own exit, ``trap`` for a known trap."""

    def __init__(self, message: str, status: int | None = None, trap: int | None = None) -> None:
        Exception.__init__(self, message)
        self.message = message
        self.status = status
        self.trap = trap


class Library:
    """The loaded library; its functions are attributes, declared at first use."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def __getattr__(self, name: str) -> Any:
        """Return a function of the library."""
        codes = _FUNCTIONS.get(name) or _config_codes(name)
        function = self._library[name]
        function.restype = _CODES[codes[0]]
        function.argtypes = [_CODES[code] for code in codes[1:]]
        setattr(self, name, function)
        return function

    def check(self, error: int | None) -> None:
        """Raise EngineError if a call returned an error; the error itself is not freed: the process ends soon."""
        if not error:
            return
        status = ctypes.c_int(0)
        if self.wasmtime_error_exit_status(error, ctypes.byref(status)):
            raise EngineError("exit", status=status.value)
        raise EngineError(self.text(self.wasmtime_error_message, error))

    def check_trap(self, trap: ctypes.c_void_p) -> None:
        """Raise EngineError if a call left a trap."""
        if not trap.value:
            return
        code = ctypes.c_uint8(255)
        known = self.wasmtime_trap_code(trap, ctypes.byref(code))
        raise EngineError(self.text(self.wasm_trap_message, trap), trap=code.value if known else None)

    def text(self, function: Any, item: Any) -> str:
        """Return what a function writes into a byte vector, as text."""
        vec = Vec()
        function(item, ctypes.byref(vec))
        data = ctypes.string_at(vec.data, vec.size) if vec.size else b""
        self.wasm_byte_vec_delete(ctypes.byref(vec))
        return data.rstrip(b"\0").decode("utf-8", "replace")

    def string(self, value: Val, data: bytes) -> None:
        """Make ``value`` a string that the library owns."""
        value.kind = VAL_STRING
        self.wasm_byte_vec_new(ctypes.byref(value.of.vec), len(data), data)


def _config_codes(name: str) -> str:
    """Return the codes of a switch or number of the configuration."""
    if name.startswith("wasmtime_config_") and name.endswith("_set"):
        return "vpQ" if name in _CONFIG_NUMBERS else "vpb"
    raise AttributeError(name)


_CONFIG_NUMBERS = ("wasmtime_config_async_stack_size_set", "wasmtime_config_max_wasm_stack_set")


def array(texts: list[bytes]) -> Any:
    """Return a C array of C strings; it must outlive the call that it is passed to."""
    return (ctypes.c_char_p * len(texts))(*texts)


def string_of(value: Val) -> bytes:
    """Return the bytes of a string that the library owns."""
    return ctypes.string_at(value.of.vec.data, value.of.vec.size) if value.of.vec.size else b""
