# Take a file that may only be read into the own directory by a hard link, and write through it.
source = ARG["path"]
name = "probe-hard-%d" % os.getpid()


def through(make):
    make()
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_APPEND))
        return "the link can be written"
    finally:
        os.unlink(name)


fd = os.open(source, getattr(os, "O_PATH", os.O_RDONLY))
attempts(
    [
        ("link", lambda: through(lambda: os.link(source, name))),
        ("proc-fd", lambda: through(lambda: os.link("/proc/self/fd/%d" % fd, name, follow_symlinks=True))),
        ("empty-path", lambda: through(lambda: call("linkat", fd, b"", -100, name.encode(), 0x1000))),
        ("reopen", lambda: os.open("/proc/self/fd/%d" % fd, os.O_WRONLY | os.O_APPEND)),
    ]
)
