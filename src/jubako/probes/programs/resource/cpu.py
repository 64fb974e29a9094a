# Burn more CPU time per wall second than allowed, by several processes; several tries where the machine is busy.
import time

seconds, allowed = float(ARG["seconds"]), float(ARG["allowed"])


def burn():
    pids = []
    start = time.monotonic()
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            while time.monotonic() - start < seconds:
                pass
            os._exit(0)
        pids.append(pid)
    used = 0.0
    for pid in pids:
        usage = os.wait4(pid, 0)[2]
        used += usage.ru_utime + usage.ru_stime
    return used / (time.monotonic() - start)


for _ in range(int(ARG["rounds"])):
    rate = burn()
    if rate > allowed:
        escaped("%.2f CPUs over %.1f s" % (rate, seconds))
contained("%.2f CPUs over %.1f s" % (rate, seconds))
