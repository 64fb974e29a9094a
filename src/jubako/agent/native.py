"""Calls into the C library for what Python has no function for.

``_ctypes`` is used without its Python wrapper: ``import ctypes`` costs 3 ms of a sandbox's start.
The names used here are the ones on which the wrapper itself is built, in every CPython since 3.8.
"""

from __future__ import annotations

import _ctypes
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple, Union

    Argument = Union[int, bytes]

_LIBRARY = "libc.so.6"


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # no subscript at run time before 3.9
    _type_ = "i"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


class _Char(_ctypes._SimpleCData):  # type: ignore[type-arg]  # as above
    _type_ = "c"


_functions: "Dict[str, _Function]" = {}


def call(name: str, *arguments: "Argument") -> int:
    """Call a C function of ints (32 bits) and pointers to bytes; raise OSError when it returns -1."""
    function = _functions.get(name)
    if function is None:
        address = _ctypes.dlsym(_ctypes.dlopen(_LIBRARY, posix.RTLD_NOW), name)
        function = _functions[name] = _Function(address)
    result = int(function(*arguments))
    if result == -1:
        code = _ctypes.get_errno()
        raise OSError(code, posix.strerror(code))
    return result


def copy_out(data: bytes) -> "Tuple[object, int]":
    """Return memory that holds a copy of ``data``, and its address; it lasts as long as the first item.

    The ``array`` module would do it too, but importing that costs 4 ms.
    """
    kind: Any = type("Memory", (_ctypes.Array,), {"_type_": _Char, "_length_": len(data)})
    memory = kind.from_buffer_copy(data)
    return memory, _ctypes.addressof(memory)
