"""A launcher that has imported modules already, and runs ``python3`` command lines in its forks.

What a program sees is what a fresh ``python3`` would show it: arguments, ``sys.path``, ``__main__``,
tracebacks, exit codes. It differs where the interpreter can't be made to forget: the modules are
loaded, and the hash seed is that of the launcher. Random state is never shared: each fork reseeds.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.machinery
import io
import os
import runpy
import site
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType, TracebackType
    from typing import Callable, Dict, List, NoReturn, Optional, Set, Tuple

_REFUSED = 2
_SIGINT = 2
_MAX_COUNT = 64
# More than one thread would end the preloading; a program of its own may still ask for more.
_SINGLE = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS")


class _UsageError(Exception):
    """The command line is none that a fork can run."""


class _Command:
    """A parsed ``python3`` command line: the options that matter, what to run, and its arguments."""

    def __init__(self, argv: "List[str]") -> None:
        self.isolated = self.no_site = self.no_user_site = self.ignore_env = self.safe_path = False
        self.no_bytecode = self.unbuffered = False
        self.warnings: "List[str]" = []
        self.options: "List[str]" = []
        self.kind, self.what = "-", ""
        self.name = argv[0]
        _check_name(self.name)
        self._rest = argv[1:]
        self._parse()
        self.arguments = self._rest

    def _parse(self) -> None:
        rest = self._rest
        while rest and rest[0].startswith("-") and rest[0] != "-":
            word = rest.pop(0)
            if word.startswith("--"):
                raise _UsageError("option " + word[:40] + " can't be used with preloaded modules")
            letters = word[1:]
            while letters:
                letter, letters = letters[0], letters[1:]
                if letter in "cmWX":
                    value = letters or (rest.pop(0) if rest else None)
                    if value is None:
                        raise _UsageError("option -" + letter + " needs an argument")
                    letters = ""
                    if letter in "cm":
                        self.kind, self.what = letter, value
                        return
                    (self.warnings if letter == "W" else self.options).append(value)
                else:
                    self._flag(letter)
        if rest and rest[0] != "-":
            self.kind, self.what = "script", rest[0]

    def _flag(self, letter: str) -> None:
        if letter == "I":
            self.isolated = self.ignore_env = self.no_user_site = self.safe_path = True
        elif letter == "S":
            self.no_site = True
        elif letter == "s":
            self.no_user_site = True
        elif letter == "E":
            self.ignore_env = True
        elif letter == "B":
            self.no_bytecode = True
        elif letter == "u":
            self.unbuffered = True
        elif letter == "P" and sys.version_info >= (3, 11):
            self.safe_path = True
        elif letter != "q":
            raise _UsageError("option -" + letter + " can't be used with preloaded modules")

    def setting(self, name: str) -> str:
        """Return a variable that configures the interpreter, unless it shall ignore them."""
        return "" if self.ignore_env else os.environ.get(name, "")


def _check_name(name: str) -> None:
    """Raise _UsageError unless a program name means this interpreter."""
    base = os.path.basename(name)
    version = "%d.%d" % sys.version_info[:2]
    known = base in ("python", "python3", "python" + version)
    if "/" in name:
        known = known and os.path.realpath(name) == os.path.realpath(sys.executable)
    if not known:
        raise _UsageError(
            name[:100] + ": preloaded modules are there for python3 commands of " + sys.executable + " only"
        )


def check(argv: "List[str]", _env: "Dict[str, str]") -> "Optional[Tuple[int, str]]":
    """Return why a command can't run as a fork, if so."""
    try:
        _Command(argv)
    except _UsageError as error:
        return _REFUSED, str(error)
    return None


# -- the launcher itself --------------------------------------------------------------------------


def main(
    serve: "Callable[..., NoReturn]", fail: "Callable[[int, str], NoReturn]", arguments: "List[str]"
) -> "NoReturn":
    """Import the modules that the arguments name, and serve on the descriptor that the last one names."""
    fd = int(arguments[-1])
    os.set_inheritable(fd, False)
    before = {name: os.environ.get(name) for name in _SINGLE}
    for name in _SINGLE:
        os.environ[name] = "1"
    # Nothing is imported from where programs may write.
    sys.path[:] = [path for path in sys.path if path]
    for name in arguments[:-1]:
        try:
            importlib.import_module(name)
        except BaseException as error:
            text = str(error) or "no message"
            fail(fd, "preload: module " + repr(name) + " can't be imported: " + type(error).__name__ + ": " + text)
        count = _threads()
        if count > 1:
            fail(fd, "preload: module %r started %d threads; a preloaded interpreter must have one" % (name, count))
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    world = _World()
    serve(fd, world.run, check)


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


# -- in the fork ----------------------------------------------------------------------------------


class _World:
    """What the interpreter had before the first program."""

    def __init__(self) -> None:
        # Each program's own PYTHONPATH comes first, not this process's.
        given = os.environ.get("PYTHONPATH", "").split(":")
        self.path = [path for path in sys.path if path not in given]
        self.modules: "Set[str]" = set(sys.modules)

    def run(self, argv: "List[str]", _env: "Dict[str, str]", _cwd: str) -> int:
        """Run a command line; return its exit code, or -2 to end by SIGINT."""
        _reseed()
        command = _Command(argv)
        self._configure(command, argv)
        code = _guarded(lambda: self._execute(command))
        # What is reported here does not change the exit code, which is that of the program.
        _guarded(threading._shutdown)  # type: ignore[attr-defined]  # what the interpreter calls
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]  # what the interpreter calls
        good = _flush_output()
        self._tear_down()
        return 120 if not good and code == 0 else code

    def _configure(self, command: _Command, argv: "List[str]") -> None:
        """Do what the interpreter's start does with options and variables."""
        path = list(self.path)
        if command.no_site:
            path = [item for item in path if not item.endswith(("site-packages", "dist-packages"))]
        elif not command.no_user_site:
            site.USER_SITE = site.USER_BASE = None
            user = site.getusersitepackages()
            if os.path.isdir(user) and user not in path:
                path.append(user)
        self._set_variables(command, argv)
        extra = command.setting("PYTHONPATH")
        sys.path[:] = [item for item in extra.split(":") if item] + path
        if command.unbuffered or command.setting("PYTHONUNBUFFERED"):
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(write_through=True)

    def _set_variables(self, command: _Command, argv: "List[str]") -> None:
        """Set what the interpreter keeps in ``sys``, besides paths."""
        if not any(name in os.environ for name in ("LC_ALL", "LC_CTYPE", "LANG")):
            os.environ["LC_CTYPE"] = "C.UTF-8"  # as the interpreter does for those that it starts
        if hasattr(sys, "orig_argv"):
            sys.orig_argv[:] = argv
        sys.dont_write_bytecode = command.no_bytecode or bool(command.setting("PYTHONDONTWRITEBYTECODE"))
        for option in command.options:
            name, found, value = option.partition("=")
            sys._xoptions[name] = value if found else True  # pyright: ignore[reportPrivateUsage]  # its only name
        wanted = [item for item in command.setting("PYTHONWARNINGS").split(",") if item] + command.warnings
        if wanted:
            import warnings

            sys.warnoptions[:] = wanted
            warnings._processoptions(wanted)  # type: ignore[attr-defined]  # what the interpreter calls

    def _execute(self, command: _Command) -> None:
        main_module = type(sys)("__main__")
        main_module.__dict__.update(__builtins__=__import__("builtins"), __annotations__={})
        main_module.__loader__ = importlib.machinery.BuiltinImporter
        sys.modules["__main__"] = main_module
        if command.kind == "c":
            sys.argv[:] = ["-c", *command.arguments]
            self._search_first("", command)
            exec(compile(command.what + "\n", "<string>", "exec"), main_module.__dict__)
        elif command.kind == "m":
            sys.argv[:] = ["-m", *command.arguments]
            self._search_first(os.getcwd(), command)
            runpy._run_module_as_main(command.what)  # type: ignore[attr-defined]  # what -m calls
        elif command.kind == "-":
            sys.argv[:] = command.arguments or [""]
            self._search_first("", command)
            source = sys.stdin.buffer.read()
            exec(compile(source, "<stdin>", "exec"), main_module.__dict__)
        else:
            sys.argv[:] = command.arguments
            self._script(command, main_module)

    def _script(self, command: _Command, main_module: "ModuleType") -> None:
        path = os.path.join(os.getcwd(), command.what) if sys.version_info >= (3, 9) else command.what
        if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
            # Even isolated, the interpreter takes such a script's own path.
            sys.path.insert(0, path)
            runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]  # what the interpreter calls
            return
        code = _code_of(path, command.name)
        self._search_first(os.path.dirname(os.path.realpath(path)), command)
        main_module.__dict__.update(__file__=path, __cached__=None)
        main_module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
        exec(code, main_module.__dict__)

    def _search_first(self, path: str, command: _Command) -> None:
        unsafe = not command.setting("PYTHONSAFEPATH") if sys.version_info >= (3, 11) else True
        if not command.safe_path and unsafe:
            sys.path.insert(0, path)

    def _tear_down(self) -> None:
        """Free what the program made, so that files it left open are written out."""
        names = [name for name in sys.modules if name not in self.modules]
        namespaces = [vars(sys.modules[name]) for name in ["__main__", *names] if sys.modules.get(name) is not None]
        sys.last_traceback = sys.last_value = sys.last_type = None
        for namespace in namespaces:
            for name in [name for name in namespace if name != "__builtins__"]:
                del namespace[name]  # errors in what this frees are reported by the interpreter itself
        gc.collect()
        _flush_output()


def _code_of(path: str, interpreter: str) -> "CodeType":
    """Return the code of a script, or end with 2 as the interpreter does when it can't be read."""
    try:
        if path.endswith(".pyc"):
            code = importlib.machinery.SourcelessFileLoader("__main__", path).get_code("__main__")
            if code is not None:
                return code
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        full = os.path.join(os.getcwd(), path)
        number = error.errno or 0
        sys.stderr.write("%s: can't open file %r: [Errno %d] %s\n" % (interpreter, full, number, os.strerror(number)))
        raise SystemExit(2) from None
    return compile(source, path, "exec")


def _guarded(function: "Callable[[], object]") -> int:
    """Call a function as the interpreter calls a program; return the exit code, or -2 after Ctrl-C."""
    raised: "Optional[BaseException]" = None
    try:
        function()
    except SystemExit as error:
        return _exit_code(error.code)
    except BaseException as error:
        raised = error
    if raised is None:
        return 0
    # Out here, where it is not the context of what a hook of the program raises.
    _report(raised)
    return -_SIGINT if isinstance(raised, KeyboardInterrupt) else 1


def _exit_code(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, int):
        return value & 0xFF
    sys.stderr.write(str(value) + "\n")
    return 1


def _report(error: BaseException) -> None:
    """Show the traceback as the interpreter would, without the frames of this file."""
    trace = _trim(error)
    try:
        sys.excepthook(type(error), error, trace)
    except BaseException as second:
        sys.stderr.write("Error in sys.excepthook:\n")
        sys.__excepthook__(type(second), second, _trim(second))
        sys.stderr.write("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, trace)


def _trim(error: BaseException) -> "Optional[TracebackType]":
    trace: "Optional[TracebackType]" = error.__traceback__
    own = _trim.__code__.co_filename
    while trace is not None and trace.tb_frame.f_code.co_filename == own:
        trace = trace.tb_next
    error.__traceback__ = trace
    return trace


def _flush_output() -> bool:
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except BaseException as error:
        sys.stderr.write(
            "Exception ignored in: " + repr(sys.stdout) + "\n" + type(error).__name__ + ": " + str(error) + "\n"
        )
        # Else the same data would be tried again.
        sys.stdout = None  # as in an interpreter without one
        return False
    return True


def _reseed() -> None:
    """Give the fork random state of its own, in everything that is loaded."""
    modules = sys.modules
    if "random" in modules:
        modules["random"].seed()
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None  # type: ignore[attr-defined]  # makes a new one at need
    if "uuid" in modules:
        modules["uuid"]._node = None  # type: ignore[attr-defined]  # as above
    if "ssl" in modules:
        modules["ssl"].RAND_add(os.urandom(32), 32.0)
