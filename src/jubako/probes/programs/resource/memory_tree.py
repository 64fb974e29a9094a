# Use more memory than allowed, by many processes that each stay small.
import mmap
import time

count, size = int(ARG["count"]), int(ARG["mib"]) << 20
reader, writer = os.pipe()
for _ in range(count):
    if os.fork() == 0:
        try:
            area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for offset in range(0, size, 4096):
                area[offset] = 1
        except (MemoryError, OSError, ValueError):
            os._exit(1)
        os.write(writer, b".")
        time.sleep(20)
        os._exit(0)
os.close(writer)
os.set_blocking(reader, False)
alive, end = 0, time.monotonic() + 6
while alive < count and time.monotonic() < end:
    try:
        piece = os.read(reader, 64)
        if not piece:
            break
        alive += len(piece)
    except BlockingIOError:
        time.sleep(0.02)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if status:
                contained("a process was ended or refused after %d of %d" % (alive, count))
if alive == count:
    escaped("%d processes hold %d MiB each" % (count, size >> 20))
contained("%d of %d got their memory" % (alive, count))
