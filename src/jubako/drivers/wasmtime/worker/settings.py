"""What the host tells the worker: one ``name=value`` per argument, names may repeat.

Written by the driver; nothing here comes from the guest.
"""

from __future__ import annotations

TYPE_CHECKING = False


class Program:
    """A precompiled program: how it is called, and the file to deserialise."""

    def __init__(self, kind: str, files: str) -> None:
        self.kind = kind
        self.path, *libraries = files.split(",")
        self.libraries = tuple((name, path) for name, _, path in (item.partition("@") for item in libraries))
        """Names and files of the modules that it imports from."""


class Settings:
    """All that the worker knows."""

    def __init__(self, words: list[str]) -> None:
        self.library = ""
        self.engine: list[tuple[str, int]] = []
        """Names and values for ``wasmtime_config_*_set``: the same with which the programs were compiled."""
        self.programs: dict[str, Program] = {}
        self.preopens: list[tuple[str, bool]] = []
        """Directories that programs see, each with whether they may write."""
        self.memory = -1
        self.table_elements = -1
        self.instances = -1
        self.tables = -1
        self.memories = -1
        self.seconds = 0.0
        self.fuel = 0
        self.module_bytes = 0
        """The largest module of the workspace that is compiled."""
        self.clock = -1
        """Nanoseconds since 1970 at which the wall clock stands, -1 for the real one."""
        self.random = -1
        """Seed of a deterministic random source, -1 for the kernel's."""
        self.tools = ""
        """Where the agent answers tool calls, empty where the policy grants none."""
        for word in words:
            name, _, value = word.partition("=")
            self._take(name, value)

    def _take(self, name: str, value: str) -> None:
        if name == "program":
            names, kind, path = value.split(":", 2)
            self.programs.update(dict.fromkeys(names.split(","), Program(kind, path)))
        elif name == "preopen":
            access, _, path = value.partition(":")
            self.preopens.append((path, access == "rw"))
        elif name == "engine":
            key, _, number = value.partition(":")
            self.engine.append((key, int(number)))
        else:
            setattr(self, name, type(getattr(self, name))(value))
