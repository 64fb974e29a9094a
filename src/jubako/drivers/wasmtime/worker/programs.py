"""From ``argv[0]`` to something that can be instantiated."""

from __future__ import annotations

import ctypes
import os
import stat

from . import capi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings

CORE, COMPONENT = b"\x01\x00\x00\x00", b"\x0d\x00\x01\x00"
_MAGIC = b"\0asm"


class CannotRunError(Exception):
    """The program does not exist (127) or can't be run (126)."""

    def __init__(self, code: int, text: str) -> None:
        Exception.__init__(self, text)
        self.code = code
        self.text = text


class Loaded:
    """A compiled program: how it is called, and the library's handle of it."""

    def __init__(self, kind: str, handle: int, libraries: tuple[tuple[str, int], ...] = ()) -> None:
        self.kind = kind
        self.handle = handle
        self.libraries = libraries
        """Modules that it imports from, by name; each has an instance of its own in every run."""

    @property
    def component(self) -> bool:
        """Whether it is a component and not a core module."""
        return self.kind.startswith("component")


class Engine:
    """The library, one engine, and the programs that the host granted, deserialised before the first fork."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.library = library = capi.Library(settings.library)
        config = library.wasm_config_new()
        for name, value in settings.engine:
            getattr(library, "wasmtime_config_" + name + "_set")(config, value)
        self.handle = library.wasm_engine_new_with_config(config)
        self._loaded: dict[str, Loaded] = {}
        for program in settings.programs.values():
            if program.path not in self._loaded:
                libraries = tuple((name, self._deserialise("core", path)) for name, path in program.libraries)
                handle = self._deserialise(program.kind, program.path)
                self._loaded[program.path] = Loaded(program.kind, handle, libraries)

    def _deserialise(self, kind: str, path: str) -> int:
        """Map a file of native code: only ever one that the host made and bound, never one of the guest's."""
        out = ctypes.c_void_p()
        library = self.library
        load = (
            library.wasmtime_component_deserialize_file
            if kind.startswith("component")
            else library.wasmtime_module_deserialize_file
        )
        library.check(load(self.handle, path.encode(), ctypes.byref(out)))
        return out.value or 0

    def find(self, name: str, cwd: str) -> Loaded:
        """Return the program that ``name`` stands for. Raises CannotRunError, EngineError."""
        if "/" not in name and name in self.settings.programs:
            return self._loaded[self.settings.programs[name].path]
        if "/" in name and not name.endswith(".wasm"):
            # Scripts name interpreters by path; the last part says which one is meant.
            short = name.rsplit("/", 1)[1]
            if name.startswith(("/usr/", "/bin/")) and short in self.settings.programs:
                return self.find(short, cwd)
        if name.endswith(".wasm"):
            return self._compile(name, cwd)
        if (
            "/" in name
            and self.below_preopen(path := os.path.realpath(os.path.join(cwd, name)))
            and os.path.exists(path)
        ):
            raise CannotRunError(126, f"{name[:200]}: not a program of the WebAssembly boundary")
        known = ", ".join(sorted(self.settings.programs))
        text = "no such program in the WebAssembly boundary; available: " + known + ", and .wasm files of the workspace"
        raise CannotRunError(127, f"{name[:200]}: {text}")

    def _compile(self, name: str, cwd: str) -> Loaded:
        """Compile a module of the guest's, here in the process that will run it, under all its limits."""
        data = self._read(name, cwd)
        if data[:4] != _MAGIC or data[4:8] not in (CORE, COMPONENT):
            raise CannotRunError(126, f"{name[:200]}: not a WebAssembly module or component")
        component = data[4:8] == COMPONENT
        library = self.library
        make = library.wasmtime_component_new if component else library.wasmtime_module_new
        out = ctypes.c_void_p()
        try:
            library.check(make(self.handle, data, len(data), ctypes.byref(out)))
        except capi.EngineError as error:
            raise CannotRunError(126, f"{name[:200]}: {' '.join(error.message.split())[:2000]}") from None
        return Loaded("component-command" if component else "core-command", out.value or 0)

    def _read(self, name: str, cwd: str) -> bytes:
        path = os.path.realpath(os.path.join(cwd, name))
        if not self.below_preopen(path):
            raise CannotRunError(127, f"{name[:200]}: not below a directory of this sandbox")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CannotRunError(127, f"{name[:200]}: not found") from None
        except OSError as error:
            raise CannotRunError(126, f"{name[:200]}: {error.strerror}") from None
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise CannotRunError(126, f"{name[:200]}: not a file")
            if status.st_size > self.settings.module_bytes:
                text = f"larger than {self.settings.module_bytes} bytes, the limit for a module"
                raise CannotRunError(126, f"{name[:200]}: {text}")
            return file.read(self.settings.module_bytes + 1)

    def below_preopen(self, path: str) -> bool:
        """Whether a real path is one that programs may see."""
        return any(path == top or path.startswith(top + "/") for top, _ in self.settings.preopens)
