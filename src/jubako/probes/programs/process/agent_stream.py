# Find the first process's stream to the host and write rubbish frames into it.
import time

written = []
for number in range(3, 64):
    path = "/proc/1/fd/%d" % number
    try:
        target = os.readlink(path)
    except OSError as error:
        refusal = word(error)
        continue
    try:
        fd = call("pidfd_getfd", call("pidfd_open", 1, 0), number, 0)
        os.write(fd, b"\xff" * 4096)
        written.append(target)
    except OSError as error:
        refusal = word(error)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b"\xff" * 4096)
        written.append(target)
    except OSError as error:
        refusal = word(error)
if written:
    escaped("wrote to %s" % written[0])
contained("the first process's descriptors can't be used (%s)" % refusal)
