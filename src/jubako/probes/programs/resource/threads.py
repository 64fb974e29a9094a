# A thread bomb, bounded.
import _thread
import time

count, made = int(ARG["count"]), 0
_thread.stack_size(65536)
gate = _thread.allocate_lock()
gate.acquire()
for _ in range(count):
    try:
        _thread.start_new_thread(gate.acquire, ())
    except RuntimeError:
        contained("refused after %d" % made)
    made += 1
escaped("%d threads alive at once" % made)
