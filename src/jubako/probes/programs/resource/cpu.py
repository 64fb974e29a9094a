# Burn more CPU time per wall second than allowed, by several processes; several tries where the machine is busy.
# Counted are the moments in which the loop really goes on: kernels differ in what they bill for the pauses.
import time

seconds, allowed = float(ARG["seconds"]), float(ARG["allowed"])
PAUSE = 0.002


def work(start):
    used, last = 0.0, time.monotonic()
    while last - start < seconds:
        now = time.monotonic()
        if now - last < PAUSE:
            used += now - last
        last = now
    return used


def burn():
    reader, writer = os.pipe()
    start = time.monotonic()
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            os.write(writer, b"%f\n" % work(start))
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    os.close(writer)
    text = os.read(reader, 4096)
    os.close(reader)
    return sum(map(float, text.split())) / (time.monotonic() - start)


for _ in range(int(ARG["rounds"])):
    rate = burn()
    if rate > allowed:
        escaped("%.2f CPUs over %.1f s" % (rate, seconds))
contained("%.2f CPUs over %.1f s" % (rate, seconds))
