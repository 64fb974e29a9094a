# See whether exec may still gain privileges, and try to take the mark away.
if call("prctl", 39, 0, 0, 0, 0) == 0:
    escaped("no_new_privs is not set")
try:
    call("prctl", 38, 0, 0, 0, 0)
except OSError as error:
    contained("set, and can't be unset (%s)" % word(error))
escaped("unset again") if call("prctl", 39, 0, 0, 0, 0) == 0 else contained("set")
