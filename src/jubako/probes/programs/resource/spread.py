# Fill one place with many files that each stay small.
size, count = 1 << 20, int(ARG["count"])
folder = os.path.join(ARG["path"], "probe-spread-%d" % os.getpid())
os.mkdir(folder)
made = 0
block = b"x" * size
try:
    for number in range(count):
        fd = os.open(os.path.join(folder, str(number)), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            done = 0
            while done < size:
                done += os.write(fd, block[done:])
        finally:
            os.close(fd)
        made += 1
except OSError as error:
    reason = word(error)
for name in os.listdir(folder):
    os.unlink(os.path.join(folder, name))
escaped("%d MiB in %d files" % (made, made)) if made == count else contained("%s after %d MiB" % (reason, made))
