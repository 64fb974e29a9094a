# Open more descriptors than allowed, after asking for a higher limit.
import resource

count, held = int(ARG["count"]), []
try:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 64, max(hard, count + 64)))
except (OSError, ValueError):
    pass
try:
    while len(held) < count:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    number = len(held)
    os.closerange(held[0] if held else 3, held[-1] + 1 if held else 4)
    contained("%s after %d" % (word(error), number))
escaped("%d descriptors open" % len(held))
