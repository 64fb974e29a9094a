# Fill the writable places: the named ones, or every one that can be found.
size = int(ARG["mib"]) << 20
block = b"x" * (1 << 16)


def places():
    if ARG["paths"] != "*":
        return ARG["paths"].split(",")
    known = set(ARG.get("known", "").split(","))
    found = []
    with open("/proc/self/mounts") as file:
        for line in file:
            path = line.split()[1]
            if path not in known and not path.startswith("/proc") and os.access(path, os.W_OK | os.X_OK):
                found.append(path)
    for path in ("/", "/dev", "/run", "/var", "/var/tmp", "/etc", "/home", "/mnt", "/opt", "/dev/mqueue", "/run/lock"):
        if path not in found and path not in known and os.access(path, os.W_OK | os.X_OK):
            found.append(path)
    return found


def act(folder):
    path = os.path.join(folder, "probe-fill-%d" % os.getpid())
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    done = 0
    try:
        while done < size:
            done += os.write(fd, block)
    except OSError as error:
        raise OSError(error.errno, "after %d KiB" % (done >> 10))
    finally:
        os.unlink(path)
        os.close(fd)
    return "wrote %d MiB" % (done >> 20)


found = places()
if not found:
    contained("no other writable place")
attempts([(folder, lambda folder=folder: act(folder)) for folder in found])
