# Kill everything that can be reached; what dies is judged from outside.
import signal
import time

try:
    os.kill(-1, int(ARG.get("signal", "9")))
except OSError as error:
    contained("refused (%s)" % word(error))
time.sleep(0.05)
contained("sent, to whatever was in reach")
