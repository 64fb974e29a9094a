# See whether this is the host's own user namespace.
try:
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
except OSError:
    boot = ""
if boot != ARG["boot"]:
    contained("users of another kernel")
if os.stat("/proc/self/ns/user").st_ino == int(ARG["namespace"]):
    escaped("the host's own user namespace")
with open("/proc/self/uid_map") as file:
    lines = file.read().split("\n")[:-1]
if len(lines) != 1 or int(lines[0].split()[2]) != 1:
    escaped("more than one user mapped")
contained("a user namespace with one user")
