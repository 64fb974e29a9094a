# Look for device nodes beyond the harmless ones; looking only, nothing is opened.
import stat

HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)}
found = []
for folder, _folders, names in os.walk("/dev"):
    for name in names:
        try:
            status = os.lstat(os.path.join(folder, name))
        except OSError:
            continue
        if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
            number = (os.major(status.st_rdev), os.minor(status.st_rdev))
            if stat.S_ISBLK(status.st_mode) or (number not in HARMLESS and number[0] != 136):
                found.append(os.path.join(folder, name))
if found:
    escaped("%d other nodes, such as %s" % (len(found), " ".join(sorted(found)[:5])))
contained("only null, zero, full, random, urandom, tty, ptmx and own terminals")
