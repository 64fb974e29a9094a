# A heart: one beat each 20 ms, for a bounded number of beats.
import time

for beat in range(int(ARG["beats"])):
    with open(ARG["path"], "w") as file:
        file.write("%d" % beat)
    time.sleep(0.02)
