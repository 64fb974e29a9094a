# Open more descriptors than allowed, after asking for a higher limit.
count, held = int(ARG["count"]), []
try:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 64, max(hard, count + 64)))
except (OSError, ValueError) + ABSENT:
    pass
path = "/dev/null" if os.path.exists("/dev/null") else "."
try:
    while len(held) < count:
        held.append(os.open(path, os.O_RDONLY))
except OSError as error:
    number = len(held)
    for fd in held:
        os.close(fd)
    contained("%s after %d" % (word(error), number))
escaped("%d descriptors open" % len(held))
