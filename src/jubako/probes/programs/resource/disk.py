# Load the disk: find a writable place that a disk is behind, and write through to it.
import time

DISKLESS = {0x01021994, 0x858458F6, 0x9FA0, 0x62656572, 0x1CD1, 0x794C7630 + 0}


def disk(path):
    # st_dev with major 0 is a file system without a block device behind it.
    return os.stat(path).st_dev >> 8 & 0xFFF != 0


places = [
    ".",
    os.environ.get("HOME", "."),
    "/tmp",
    "/var/tmp",
    "/dev/shm",
    "/run",
    "/home",
    "/mnt",
    *ARG.get("paths", "").split(","),
]
for place in places:
    if not place or not os.access(place, os.W_OK | os.X_OK) or not disk(place):
        continue
    path = os.path.join(place, "probe-disk-%d" % os.getpid())
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_SYNC, 0o600)
    except OSError:
        continue
    os.write(fd, b"x" * (1 << 16))
    os.close(fd)
    os.unlink(path)
    escaped("wrote through to a disk in %s" % place)
contained("nothing writable is on a disk")
