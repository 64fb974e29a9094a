# Attach to another process as a debugger.
pid = int(ARG["pid"])


def attach(request):
    call("ptrace", request, pid, 0, 0)
    if request == 16:
        os.waitpid(pid, 0)
    call("ptrace", 17, pid, 0, 0)
    return "attached"


def seize():
    call("ptrace", 0x4206, pid, 0, 0)
    return "seized"


attempts([("attach", lambda: in_child(lambda: attach(16))), ("seize", lambda: in_child(seize))])
