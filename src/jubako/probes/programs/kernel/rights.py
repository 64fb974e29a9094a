# Take more than a fair share: real-time scheduling, a better nice value, higher hard limits, I/O priority.
import resource


def realtime():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "real-time"


def nicer():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    return "nice %d, was %d" % (os.getpriority(os.PRIO_PROCESS, 0), before)


def limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))
    return "hard limit raised"


def io_priority():
    call("ioprio_set", 1, 0, (1 << 13) | 0)
    return "real-time I/O"


ways = {"realtime": realtime, "nice": nicer, "limit": limit, "ioprio": io_priority}
attempts([(name, lambda name=name: in_child(ways[name])) for name in ARG["ways"].split(",")])
