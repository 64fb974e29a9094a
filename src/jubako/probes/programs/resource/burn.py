# Burn all the CPU there is, by two processes where one can start another; the host watches.
import time

end = time.monotonic() + float(ARG["seconds"])
if hasattr(os, "fork"):
    os.fork()
while time.monotonic() < end:
    pass
