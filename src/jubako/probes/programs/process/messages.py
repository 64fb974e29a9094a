# Reach the host's System V message queue and semaphores, or its POSIX message queue.
import ctypes

WAYS = {
    "queue": lambda: "queue %d" % call("msgget", int(ARG.get("key", "0")), 0),
    "semaphores": lambda: "semaphores %d" % call("semget", int(ARG.get("key", "0")), 0, 0),
    "posix": lambda: "descriptor %d" % call("mq_open", ARG.get("name", "").encode(), os.O_RDONLY, 0, 0),
}


def act():
    try:
        return WAYS[ARG["way"]]()
    except OSError as error:
        # Denied only by permission means: it is there, in the same namespace.
        if error.errno == errno.EACCES and ARG["way"] != "posix":
            return "seen (EACCES)"
        raise


attempts([(ARG["way"], act)])
