# Look for descriptors that were open before: anything beyond the three standard ones, the marked file above all.
import stat

mark = ARG["mark"].encode()
found = []
listed = os.path.isdir("/proc/self/fd")
for name in sorted(os.listdir("/proc/self/fd"), key=int) if listed else map(str, range(4096)):
    fd = int(name)
    try:
        status = os.fstat(fd)
        # Without /proc the directories that were granted are descriptors: their files are what fs.* is about.
        target = os.readlink("/proc/self/fd/" + name) if listed else "/fd" * stat.S_ISDIR(status.st_mode)
    except OSError:
        continue
    if stat.S_ISREG(status.st_mode):
        try:
            if mark in os.pread(fd, 4096, 0):
                escaped("descriptor %d is the marked file" % fd)
        except OSError:
            pass
    if fd > 2 and not target.endswith("/fd"):
        found.append("%d=%s" % (fd, target))
if found:
    escaped("inherited: %s" % " ".join(found[:8]))
contained("0, 1 and 2 only")
