"""How every engine is configured: the one that compiles and the one that runs must agree, or nothing loads.

Data only: the compiler applies it through the ``wasmtime`` package, the worker inside the jail through
the library itself. ``MEMORY``-like limits are not here: they belong to each run.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_WASM_STACK", "SETTINGS"]

MAX_WASM_STACK: Final = 4 * 1024 * 1024
"""Bytes of stack for WebAssembly; deeper recursion is a trap."""

_OFF: Final = (
    "wasm_threads",
    "shared_memory",
    "wasm_memory64",
    "wasm_multi_memory",
    "wasm_relaxed_simd",
    "wasm_tail_call",
    "wasm_exceptions",
    "wasm_function_references",
    "wasm_gc",
    "wasm_wide_arithmetic",
    "wasm_custom_page_sizes",
    "wasm_stack_switching",
    "wasm_component_model_map",
    "wasm_component_model_implements",
    "parallel_compilation",
)

SETTINGS: Final = (
    *((name, 0) for name in _OFF),
    ("wasm_component_model", 1),
    ("epoch_interruption", 1),
    ("consume_fuel", 0),
    ("max_wasm_stack", MAX_WASM_STACK),
    ("async_stack_size", 2 * MAX_WASM_STACK),
)
"""Names and values for ``wasmtime_config_<name>_set``."""
