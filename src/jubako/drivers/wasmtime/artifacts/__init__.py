"""What the worker executes: precompiled WebAssembly, built once on this machine and verified before every use.

``await python_program()`` and its sisters return a ``Program``: a file that wasmtime deserialises, of a digest.
The file is native code made by this user on this machine; nothing else is ever deserialised.
``engine_config.py`` beside this module is the one place that configures wasmtime, here and in the worker: it
imports nothing of jubako, so that the worker can load it by its path.
"""

from __future__ import annotations

from jubako.drivers.wasmtime.artifacts.cache import ArtifactCache
from jubako.drivers.wasmtime.artifacts.model import Kind, Program, Progress
from jubako.drivers.wasmtime.artifacts.programs import javascript_program, python_program, user_program

__all__ = [
    "ArtifactCache",
    "Kind",
    "Program",
    "Progress",
    "javascript_program",
    "python_program",
    "user_program",
]
