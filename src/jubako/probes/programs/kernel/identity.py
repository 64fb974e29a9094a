# Become another user: root, a neighbour, or a member of other groups.
other = int(ARG.get("other", "0"))


def uid(number):
    os.setresuid(number, number, number)
    return "uid %d" % number


def gid(number):
    os.setresgid(number, number, number)
    return "gid %d" % number


def groups():
    os.setgroups([0, 5, 6])
    return "groups set"


def give():
    name = "probe-own-%d" % os.getpid()
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600))
    try:
        os.chown(name, 1, 1)
        return "gave a file away"
    finally:
        os.unlink(name)


pairs = [("uid", lambda: in_child(lambda: uid(other))), ("groups", lambda: in_child(groups))]
pairs += [("gid", lambda: in_child(lambda: gid(other))), ("chown", lambda: in_child(give))]
attempts([pair for pair in pairs if pair[0] in ARG.get("only", "uid,gid,groups,chown").split(",")])
