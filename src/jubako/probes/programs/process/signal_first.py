# Send every signal to one process; what ends is judged from outside.
import time

pid = int(ARG["pid"])
sent = 0
for number in list(range(1, 65)) + [9]:
    try:
        os.kill(pid, number)
        sent += 1
    except OSError:
        pass
time.sleep(0.05)
contained("%d signals sent to process %d" % (sent, pid))
