# Stay alive: ignore every signal that can be ignored, leave session and parent, keep a heart beating in a file.
# Lives for a bounded time in any case.
import signal
import time

end = time.monotonic() + float(ARG["seconds"])
kind, path = ARG["kind"], ARG["path"]
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
if kind == "daemon":
    if os.fork():
        time.sleep(float(ARG["seconds"]))
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setsid() if os.getpid() != os.getsid(0) else None
elif kind == "orphan":
    if os.fork():
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
elif kind == "runner":
    # A new process each few milliseconds, the old one gone: hard to catch by pid.
    os.setsid() if os.getpid() != os.getsid(0) else None
count = 0
while time.monotonic() < end:
    count += 1
    with open(path + ".new", "w") as file:
        file.write("%d %d" % (count, os.getpid()))
    os.rename(path + ".new", path)
    if kind == "runner":
        if os.fork():
            if count == 1:
                time.sleep(float(ARG["seconds"]))
            os._exit(0)
        os.setsid()
    time.sleep(0.01)
os._exit(0)
