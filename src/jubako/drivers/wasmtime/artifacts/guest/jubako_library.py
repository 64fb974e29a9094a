"""The standard library in memory: compiled while the snapshot is made, imported without any file.

The directory of the library exists only while the interpreter is being initialised. What programs import later
comes from the dictionary below, through a finder for that directory's path: so the order of ``sys.path`` holds, and
a program's own module is found before the library's as everywhere.
"""

import importlib.util
import marshal
import os
import sys
import zlib
from importlib import _bootstrap_external

ROOT = "/python"

_LEFT_OUT = frozenset(
    "__pycache__ config-3.14-wasm32-wasi ctypes curses ensurepip idlelib lib-dynload multiprocessing site-packages"
    " tkinter turtledemo venv".split()
)
_LEFT_OUT_FILES = frozenset(
    "_aix_support.py _android_support.py _apple_support.py _ios_support.py _osx_support.py turtle.py".split()
)

PROCESSES = "there are no processes and no signals in WebAssembly"
SOCKETS = "there are no sockets in WebAssembly"
NATIVE = "it is a native library that has no WebAssembly build here"
TERMINALS = "there are no terminals in WebAssembly"

MISSING = {
    **dict.fromkeys("_multiprocessing _posixshmem _posixsubprocess multiprocessing resource".split(), PROCESSES),
    **dict.fromkeys("_ssl".split(), SOCKETS),
    **dict.fromkeys(
        "_bz2 _ctypes _dbm _gdbm _hashlib _interpchannels _interpqueues _interpreters _lzma _remote_debugging _uuid"
        " _zstd ctypes".split(),
        NATIVE,
    ),
    **dict.fromkeys(
        "_curses _curses_panel _tkinter curses idlelib pty readline termios tkinter tty turtle turtledemo".split(),
        TERMINALS,
    ),
    **dict.fromkeys("fcntl mmap".split(), "WASI has no such calls"),
    **dict.fromkeys("grp pwd syslog".split(), "there are no users and no system log in WebAssembly"),
    **dict.fromkeys("ensurepip pip venv".split(), "packages can't be installed in WebAssembly"),
}
"""Names that programs may expect, and why they are not here."""


class _Entry:
    """One module: where it would be, whether it is a package, its compiled and its written text."""

    __slots__ = ("code", "directory", "package", "path", "source")

    def __init__(self, path, *, package, code, source):
        self.path = path
        self.directory = path.rpartition("/")[0]
        self.package = package
        self.code = code
        self.source = source


_LIBRARY = {}


class LibraryLoader(_bootstrap_external._LoaderBasics):
    """Loads from memory. The base's ``exec_module`` keeps import machinery out of tracebacks."""

    def __init__(self, fullname):
        self.name = fullname
        self.path = _LIBRARY[fullname].path

    def is_package(self, fullname):
        return _LIBRARY[fullname].package

    def get_code(self, fullname):
        return marshal.loads(_LIBRARY[fullname].code)  # noqa: S302  # compiled here

    def get_source(self, fullname):
        return importlib.util.decode_source(zlib.decompress(_LIBRARY[fullname].source))

    def get_filename(self, fullname):
        return _LIBRARY[fullname].path


class LibraryFinder:
    """Finds modules below one directory of the library."""

    def __init__(self, directory):
        below = directory.rstrip("/")
        if below != ROOT and not below.startswith(ROOT + "/"):
            raise ImportError("not the library", path=directory)
        self._directory = below

    def find_spec(self, fullname, target=None):  # noqa: ARG002  # the interpreter's interface
        entry = _LIBRARY.get(fullname)
        if entry is None:
            return None
        home = entry.directory.rpartition("/")[0] if entry.package else entry.directory
        return _spec(fullname, entry) if home == self._directory else None

    def iter_modules(self, prefix=""):
        for fullname, entry in sorted(_LIBRARY.items()):
            home = entry.directory.rpartition("/")[0] if entry.package else entry.directory
            if home == self._directory:
                yield prefix + fullname.rpartition(".")[2], entry.package

    def invalidate_caches(self):
        pass


class MissingFinder:
    """Stands last, and says why a module of the library is not there."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        reason = MISSING.get(fullname)
        if reason is not None:
            message = f"{fullname} is not available in the WebAssembly Python: {reason}"
            raise ModuleNotFoundError(message, name=fullname)


# As import machinery, whose frames tracebacks leave out.
MissingFinder.find_spec.__code__ = MissingFinder.find_spec.__code__.replace(
    co_filename="<frozen importlib._bootstrap_external>"
)


def _spec(fullname, entry):
    spec = importlib.util.spec_from_loader(
        fullname, LibraryLoader(fullname), origin=entry.path, is_package=entry.package
    )
    spec.has_location = True
    if entry.package:
        spec.submodule_search_locations = [entry.directory]
    return spec


def embed():
    """Compile all of the library that can run here. Called once, while the snapshot is made."""
    for directory, directories, files in os.walk(ROOT):
        directories[:] = sorted(set(directories) - _LEFT_OUT)
        for name in sorted(files):
            if name.endswith(".py") and name not in _LEFT_OUT_FILES:
                _embed(f"{directory}/{name}")


def _embed(path):
    with open(path, "rb") as file:
        source = file.read()
    package = path.endswith("/__init__.py")
    parts = path.removeprefix(ROOT + "/").removesuffix("/__init__.py").removesuffix(".py")
    code = compile(source, path, "exec", dont_inherit=True)
    _LIBRARY[parts.replace("/", ".")] = _Entry(
        path, package=package, code=marshal.dumps(code), source=zlib.compress(source, 6)
    )


def install():
    """Let every import find the library in memory, and nothing else of the build."""
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.name in _LIBRARY and spec.origin == _LIBRARY[spec.name].path:
            spec.loader = module.__loader__ = LibraryLoader(spec.name)
            spec.cached = None
    sys.path_hooks.insert(0, LibraryFinder)
    sys.meta_path.append(MissingFinder)
    sys.path[:] = [ROOT]
    sys.path_importer_cache.clear()
