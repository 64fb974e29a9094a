"""The WebAssembly boundary: programs run as WebAssembly, in a worker that has a process boundary around it."""

from jubako.drivers.wasmtime.driver import WasmtimeDriver

__all__ = ["WasmtimeDriver"]
