"""The command line of ``python3``: options, program, exit status, as CPython does them."""

import atexit
import builtins
import gc
import io
import linecache
import logging
import os
import random
import runpy
import sys
import tempfile
import time
import traceback
import uuid
import warnings

import jubako_library

_HERE = frozenset({__file__, jubako_library.__file__})
_NAME = "python3"
_USAGE = f"usage: {_NAME} [option] ... [-c cmd | -m mod | file | -] [arg] ...\n"
_FLAGS = frozenset("bBdEiIOPqRsSuvx?")
_TAKES_VALUE = frozenset("WX")

_STATUS = 0xFF
_NOT_FLUSHED = 120  # as CPython has it
_EXHAUSTED = 0x100  # told beside the status, for the host to name the limit

# What CPython itself imports before any program runs: a file of that name in the program's directory never wins there.
_NEVER_SHADOWED = frozenset(
    "__main__ abc builtins codecs encodings genericpath io jubako_console jubako_guest jubako_library "
    "marshal os posix posixpath site stat sys time zipimport".split()
)

_KEPT = set()


def settle():
    """Leave the snapshot in the state in which every run shall begin."""
    _KEPT.update(sys.modules)
    linecache.clearcache()
    gc.collect()
    # The snapshot's objects live as long as the interpreter: never walk them again.
    gc.freeze()


class _UsageError(Exception):
    """The command line is wrong."""


class _Command:
    """A parsed command line."""

    def __init__(self):
        self.kind = "stdin"
        self.text = ""
        self.argv = [""]
        self.flags = ""
        self.warnings = []
        self.xoptions = {}


def _parse(arguments):
    command = _Command()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "-" or not word.startswith("-"):
            command.kind = "stdin" if word == "-" else "script"
            command.text, command.argv = word, [word, *rest]
            return command
        if word == "--":
            if rest:
                command.kind, command.text, command.argv = "script", rest[0], rest
            return command
        if word.startswith("--"):
            if word not in ("--version", "--help"):
                raise _UsageError(f"unknown option {word}")
            command.kind = word[2:]
            return command
        if _letters(command, word[1:], rest):
            return command
    return command


def _letters(command, letters, rest):
    """Take one word of options; return whether it named the program."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in "cm":
            if not letters and not rest:
                raise _UsageError(f"Argument expected for the -{letter} option")
            command.kind = {"c": "command", "m": "module"}[letter]
            command.text = letters or rest.pop(0)
            command.argv = [f"-{letter}", *rest]
            return True
        if letter in "Vh?":
            command.kind = "version" if letter == "V" else "help"
            return True
        if letter in _TAKES_VALUE:
            if not letters and not rest:
                raise _UsageError(f"Argument expected for the -{letter} option")
            value, letters = letters or rest.pop(0), ""
            if letter == "W":
                command.warnings.append(value)
            else:
                key, _, text = value.partition("=")
                command.xoptions[key] = text or True
        elif letter in _FLAGS:
            command.flags += letter
        else:
            raise _UsageError(f"unknown option -{letter}")
    return False


def main(argv):
    """Run one command line; return the exit status."""
    _open_streams(unbuffered=False)
    try:
        command = _parse(argv[1:])
    except _UsageError as error:
        sys.stderr.write(f"{error}\n{_USAGE}")
        return 2
    if command.kind in ("version", "help"):
        sys.stdout.write(f"Python {sys.version.split()[0]}\n" if command.kind == "version" else _USAGE)
        sys.stdout.flush()
        return 0
    status = _guarded(_program, command)
    at_end = _guarded(_end)
    # CPython's word for output that was lost, unless the program itself had failed before.
    return status or at_end


def _open_streams(*, unbuffered):
    """Open the standard streams anew: those of the snapshot belong to the build."""

    def text(number, mode, errors, **options):
        raw = io.FileIO(number, mode, closefd=False)
        buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, **options)
        stream.mode = mode
        return stream

    # Whole lines leave at once: what a program has printed before a trap is not lost.
    sys.stdin = sys.__stdin__ = text(0, "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = text(1, "w", "surrogateescape", line_buffering=True, write_through=unbuffered)
    sys.stderr = sys.__stderr__ = text(2, "w", "backslashreplace", line_buffering=True)


def _new_identity():
    """Forget what the build drew by chance; the host decides where randomness comes from."""
    random.seed()
    tempfile._name_sequence = None
    tempfile.tempdir = None
    uuid._node = None
    uuid._last_timestamp = None
    logging._startTime = time.time_ns()


def _configure(command):
    isolated = "I" in command.flags
    where = os.environ.get("PWD", "/")
    try:
        os.chdir(where)
    except OSError as error:
        sys.stderr.write(f"{_NAME}: can't use the working directory {where!r}: {error.strerror}\n")
    sys.argv = command.argv
    sys.orig_argv = [_NAME, *command.argv]
    sys._xoptions.update(command.xoptions)
    sys.dont_write_bytecode = "B" in command.flags or _variable("PYTHONDONTWRITEBYTECODE", command)
    if "u" in command.flags or _variable("PYTHONUNBUFFERED", command):
        sys.stdout.reconfigure(write_through=True)
    filters = [*os.environ.get("PYTHONWARNINGS", "").split(","), *command.warnings]
    if filters := [one for one in filters if one]:
        sys.warnoptions.extend(filters)
        warnings._processoptions(filters)
    extra = [] if _ignores_environment(command) else os.environ.get("PYTHONPATH", "").split(":")
    sys.path[:0] = [os.path.abspath(one) for one in extra if one]
    if not (isolated or "P" in command.flags):
        _own_directory(command)
    main_module = sys.modules["__main__"]
    main_module.__dict__.clear()
    main_module.__dict__.update(
        __name__="__main__", __doc__=None, __package__=None, __loader__=None, __spec__=None, __builtins__=builtins
    )


def _ignores_environment(command):
    return "E" in command.flags or "I" in command.flags


def _variable(name, command):
    return not _ignores_environment(command) and bool(os.environ.get(name))


def _own_directory(command):
    """Put the program's directory first, as CPython does, and let its modules win over imported ones of that name."""
    if command.kind == "script":
        first = os.path.dirname(os.path.realpath(command.text))
    elif command.kind == "module":
        first = os.getcwd()
    else:
        first = ""
    sys.path.insert(0, first)
    try:
        names = {name.removesuffix(".py") for name in os.listdir(first or ".")}
    except OSError:
        return  # nothing to import from there
    shadowed = names & _KEPT - _NEVER_SHADOWED
    for name in [one for one in sys.modules if one.partition(".")[0] in shadowed]:
        if name.partition(".")[0] not in sys.builtin_module_names:
            del sys.modules[name]


def _program(command):
    _new_identity()
    _configure(command)
    if command.kind == "command":
        _execute(command.text, "<string>")
    elif command.kind == "module":
        runpy._run_module_as_main(command.text)
    elif command.kind == "stdin":
        _execute(sys.stdin.buffer.read(), "<stdin>")
    else:
        _script(command.text)


def _script(path):
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        sys.path.insert(0, path)
        runpy._run_module_as_main("__main__", alter_argv=False)
        return
    try:
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as error:
        shown = os.path.join(os.getcwd(), path)
        sys.stderr.write(f"{_NAME}: can't open file {shown!r}: [Errno {error.errno}] {error.strerror}\n")
        sys.exit(2)
    sys.modules["__main__"].__dict__["__file__"] = path
    _execute(source, path)


def _execute(source, name):
    if name.startswith("<"):
        text = source if isinstance(source, str) else source.decode("utf-8", "replace")
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    code = compile(source, name, "exec", dont_inherit=True)
    exec(code, sys.modules["__main__"].__dict__)  # noqa: S102  # the program: running it is what this is for


def _guarded(function, *arguments):
    """Call; return the exit status that CPython would have, after what it would have printed."""
    try:
        function(*arguments)
    except SystemExit as error:
        return _status_of(error.code)
    except (MemoryError, RecursionError) as error:
        _report(error)
        return 1 | _EXHAUSTED
    except BaseException as error:  # noqa: BLE001  # as an interpreter's last resort does
        _report(error)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _status_of(code):
    if code is None:
        return 0
    if isinstance(code, int):
        return code & _STATUS
    _say(f"{code}\n")
    return 1


def _report(error):
    """Print the traceback without the frames of this console."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename in _HERE:
        place = place.tb_next
    error.__traceback__ = place
    sys.last_exc = error
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, place
    if isinstance(error, ModuleNotFoundError) and error.name and "WebAssembly" not in str(error):
        error.add_note("The WebAssembly Python has the standard library and what is in the workspace; see docs/wasm.md")
    try:
        sys.excepthook(type(error), error, place)
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001  # likewise
        _say("Error in sys.excepthook:\n" + traceback.format_exc())
        _say("\nOriginal exception was:\n" + "".join(traceback.format_exception(error)))


def _say(text):
    try:
        sys.stderr.write(text)
    except (AttributeError, OSError, ValueError):
        os.write(2, text.encode("utf-8", "backslashreplace"))


def _end():
    """Run exit functions, let go of what the program made so that its files are written out, and flush."""
    failed = _flush()
    atexit._run_exitfuncs()
    names = sys.modules["__main__"].__dict__
    for name in [one for one in names if one != "__builtins__"]:
        names[name] = None
    for name in [one for one in sys.modules if one not in _KEPT]:
        del sys.modules[name]
    sys.last_exc = sys.last_type = sys.last_value = sys.last_traceback = None
    gc.collect()
    if _flush() or failed:
        sys.exit(_NOT_FLUSHED)


def _flush():
    failed = False
    for name in ("stdout", "__stdout__", "stderr"):
        stream = getattr(sys, name, None)
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except AttributeError:
            continue  # a replacement without these methods has nothing to flush
        except (OSError, ValueError) as error:
            failed = True
            if name != "stderr":
                _say(f"Exception ignored while flushing sys.stdout:\n{type(error).__name__}: {error}\n")
    return failed
