# Find a marked process of the host in /proc, by command line or environment.
mark = ARG["mark"].encode()
what = ARG["what"]
seen = 0
for pid in os.listdir("/proc") if os.path.isdir("/proc") else []:
    if not pid.isdigit() or int(pid) == os.getpid():
        continue
    seen += 1
    try:
        with open("/proc/%s/%s" % (pid, what), "rb") as file:
            data = file.read(1 << 17)
    except OSError:
        continue
    if mark in data:
        escaped("found the mark in /proc/%s/%s" % (pid, what))
contained("looked at %d other processes" % seen)
