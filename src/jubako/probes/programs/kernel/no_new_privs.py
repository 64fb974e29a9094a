# See whether exec may still gain privileges, and try to take the mark away.
with open("/proc/self/status") as file:
    value = [line.split()[1] for line in file if line.startswith("NoNewPrivs")][0]
if value == "0":
    escaped("no_new_privs is not set")
try:
    call("prctl", 38, 0, 0, 0, 0)
except OSError as error:
    contained("set, and can't be unset (%s)" % word(error))
with open("/proc/self/status") as file:
    value = [line.split()[1] for line in file if line.startswith("NoNewPrivs")][0]
escaped("unset again") if value == "0" else contained("set")
