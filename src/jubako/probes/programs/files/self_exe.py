# Keep a handle on the running interpreter, become another program, then open the interpreter for writing
# (how a container once overwrote the host's runc).
fd = os.open(ARG.get("exe", "/proc/self/exe"), os.O_PATH)
os.set_inheritable(fd, True)
script = (
    "if true 2>/dev/null >> /proc/self/fd/%d; then echo ESCAPED the interpreter could be opened for writing; "
    "else echo CONTAINED the interpreter could not be opened for writing; fi" % fd
)
os.execv("/bin/sh", ["/bin/sh", "-c", script])
