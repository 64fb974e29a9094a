# Stay alive: ignore every signal that can be ignored, leave session and parent, keep a heart beating in a file.
# Lives for a bounded time in any case.
import time

try:
    import signal
except ImportError:  # where there are none, none can be ignored
    signal = None

end = time.monotonic() + float(ARG["seconds"])
kind, path = ARG["kind"], ARG["path"]
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError, AttributeError):
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
    # Each process lives for a fraction of a millisecond and leaves a child: hard to catch by pid.
    if os.fork():
        time.sleep(float(ARG["seconds"]))
        os._exit(0)
    os.setsid()
    os.fork()
count = 0
while time.monotonic() < end:
    count += 1
    if kind != "runner" or count % 32 == 1:
        mine = "%s.%d" % (path, os.getpid())
        with open(mine, "w") as file:
            file.write("%d" % count)
        os.rename(mine, path)
    if kind == "runner":
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            time.sleep(0.001)
        os.setsid()
    else:
        time.sleep(0.01)
os._exit(0)
