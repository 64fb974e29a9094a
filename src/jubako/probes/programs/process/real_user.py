# See whether this is the host's own user namespace.
if os.stat("/proc/self/ns/user").st_ino == int(ARG["namespace"]):
    escaped("the host's own user namespace")
with open("/proc/self/uid_map") as file:
    lines = file.read().split("\n")[:-1]
if len(lines) != 1 or int(lines[0].split()[2]) != 1:
    escaped("more than one user mapped")
contained("a user namespace with one user")
