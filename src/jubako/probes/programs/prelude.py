# Put in front of every program below by the runner. Each program ends with one line:
#   ESCAPED <evidence> | CONTAINED <evidence> | INCONCLUSIVE <why>
# NR is filled in by the runner: numbers of the system calls that the program names.
import errno
import os
import sys

ARG = dict(item.split("=", 1) for item in sys.argv[1:] if "=" in item)
NR = {}
# What is raised where the boundary has no such thing at all: WebAssembly has no processes, sockets or machine code.
ABSENT = (ImportError, AttributeError, NotImplementedError) if sys.platform == "wasi" else ()
REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS}


def _end(word, text):
    line = (word + " " + str(text)).replace("\n", " ").encode("utf-8", "backslashreplace")[:400] + b"\n"
    os.write(1, line)
    os._exit(0)


def escaped(text):
    _end("ESCAPED", text)


def contained(text):
    _end("CONTAINED", text)


def inconclusive(text):
    _end("INCONCLUSIVE", text)


def word(error):
    return errno.errorcode.get(error.errno, str(error.errno)) if isinstance(error, OSError) else type(error).__name__


def attempts(pairs):
    """Escaped with the first act that gives something; contained with every refusal otherwise."""
    refused = []
    for label, act in pairs:
        try:
            got = act()
        except (OSError, MemoryError, ValueError) + ABSENT as error:
            refused.append("%s:%s" % (label, word(error)))
            continue
        if got:
            escaped("%s: %s" % (label, got))
        refused.append("%s:nothing" % label)
    contained(" ".join(refused))


def in_child(act):
    """Run act in a forked child: what it returns as text, or raise the OSError it met; a death is an EPERM."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = "=%s" % (act() or "")
        except OSError as error:
            text = "!%d" % error.errno
        except BaseException as error:
            text = "?%r" % error
        os.write(writer, text.encode()[:400])
        os._exit(0)
    os.close(writer)
    text = b""
    while True:
        piece = os.read(reader, 4096)
        if not piece:
            break
        text += piece
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    text = text.decode()
    if os.WIFSIGNALED(status):
        raise OSError(errno.EPERM, "killed by signal %d" % os.WTERMSIG(status))
    if text.startswith("!"):
        raise OSError(int(text[1:]), os.strerror(int(text[1:])))
    if text.startswith("?"):
        raise ValueError(text[1:])
    return text[1:]


def libc():
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def call(name, *arguments):
    """The raw system call; raises OSError."""
    return call_number(NR[name], *arguments)


def call_number(number, *arguments):
    import ctypes

    ready = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    ctypes.set_errno(0)
    result = libc().syscall(ctypes.c_long(number), *ready)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def reached(name, *arguments):
    """Evidence that the call got past filters and permission checks, or the refusal as OSError."""

    def act():
        try:
            return "answered %d" % call(name, *arguments)
        except OSError as error:
            if error.errno in REFUSED:
                raise
            return "reached the kernel (%s)" % word(error)

    return in_child(act)
