# Look for a secret in the environment: the own, and of every process in sight.
mark = ARG["mark"].encode()
for name, value in os.environb.items():
    if mark in value:
        escaped("variable %s" % name.decode())
for pid in os.listdir("/proc") if os.path.isdir("/proc") else []:
    if not pid.isdigit():
        continue
    try:
        with open("/proc/%s/environ" % pid, "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        continue
    if mark in data:
        escaped("environment of process %s" % pid)
contained("variables: %s" % " ".join(sorted(os.environ))[:300])
