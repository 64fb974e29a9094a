# Find a resolver to leak names through: only looked for, never asked.
found = []
try:
    with open("/etc/resolv.conf") as file:
        found = [line.split()[1] for line in file if line.startswith("nameserver") and len(line.split()) > 1]
except OSError as error:
    contained("no resolv.conf (%s)" % word(error))
if found:
    escaped("resolvers configured: %s" % " ".join(found))
contained("resolv.conf names no server")
