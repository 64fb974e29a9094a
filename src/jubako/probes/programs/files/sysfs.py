# See the machine through /sys, or change it there; files are opened only.
knobs = ["/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled"]


def listed():
    names = os.listdir("/sys")
    return "%d entries" % len(names) if names else ""


def opened(path):
    os.close(os.open(path, os.O_WRONLY))
    return "opened for writing"


def agents():
    found = []
    for folder, _folders, names in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(folder, name) for name in names if name in ("release_agent", "cgroup.procs")]
        if len(found) > 50:
            break
    for path in found:
        try:
            return opened(path) + " " + path
        except OSError:
            continue
    return ""


attempts([("list", listed), ("cgroup", agents)] + [(path, lambda path=path: opened(path)) for path in knobs])
