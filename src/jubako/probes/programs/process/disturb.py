# Change another process from outside: priority, limits, affinity.
pid = int(ARG["pid"])


def nice():
    os.setpriority(os.PRIO_PROCESS, pid, 19)
    return "made nicer"


def limits():
    import resource

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, 8))
    return "limit changed"


def affinity():
    os.sched_setaffinity(pid, {0})
    return "pinned"


def priority():
    call("ioprio_set", 1, pid, 3 << 13)
    return "I/O priority changed"


attempts([("nice", nice), ("limits", limits), ("affinity", affinity), ("ioprio", priority)])
