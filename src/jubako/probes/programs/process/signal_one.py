# Kill one process.
import signal

pid = int(ARG["pid"])
numbers = [int(item) for item in ARG.get("signals", "0,15,9").split(",")]


def act(number):
    os.kill(pid, number)
    return "signal %d sent" % number


def by_pidfd():
    fd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else call("pidfd_open", pid, 0)
    call("pidfd_send_signal", fd, signal.SIGKILL, 0, 0)
    return "signal sent by pidfd"


attempts(
    [("kill %d" % number, lambda number=number: act(number)) for number in numbers if number] + [("pidfd", by_pidfd)]
)
