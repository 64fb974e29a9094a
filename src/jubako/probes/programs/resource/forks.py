# A fork bomb, bounded: more processes than allowed, all alive at once.
import time

count = int(ARG["count"])
reader, writer = os.pipe()
made = 0
for _ in range(count):
    try:
        pid = os.fork()
    except OSError as error:
        contained("%s after %d" % (word(error), made))
    if pid == 0:
        try:
            os.close(writer)
            os.read(reader, 1)
        finally:
            os._exit(0)
    made += 1
escaped("%d processes alive at once" % made)
