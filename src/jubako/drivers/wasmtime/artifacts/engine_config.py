"""The one configuration of wasmtime: the compiler's and the worker's must agree, or nothing is deserialised.

Imports nothing but wasmtime: the worker, which has no jubako, loads this file by its path.
"""

from __future__ import annotations

import wasmtime

__all__ = ["CONFIG_VERSION", "MAX_WASM_STACK", "engine_config"]

CONFIG_VERSION = 1
"""Raised with every change below; part of every cache key."""

MAX_WASM_STACK = 1024 * 1024
"""Bytes of stack for WebAssembly; deeper recursion is a trap."""

_OFF = (
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
)


def engine_config(*, fuel: bool = False) -> wasmtime.Config:
    """Return the configuration of every engine: no proposal that the programs do without, epochs on."""
    config = wasmtime.Config()
    for name in _OFF:
        setattr(config, name, False)
    config.wasm_component_model = True
    config.epoch_interruption = True
    config.consume_fuel = fuel
    config.max_wasm_stack = MAX_WASM_STACK
    config.parallel_compilation = False
    return config
