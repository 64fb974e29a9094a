# Call functions of the host beyond what was granted: others, more often, with arguments that don't fit.
sys.path.insert(0, "/run/jubako/lib")
import jubako_tools

most = int(ARG["most"])


def called(name, **arguments):
    try:
        return "answered %r" % (jubako_tools.call(name, **arguments),)
    except jubako_tools.ToolError as error:
        raise OSError(errno.EACCES, error.code)


def often():
    done = 0
    for number in range(most + 5):
        try:
            jubako_tools.call("granted", number=number)
            done += 1
        except jubako_tools.ToolError:
            pass
    if not done:
        inconclusive("no call was answered at all")
    return "answered %d times" % done if done > most else ""


ways = {
    "others": [
        (name, lambda name=name: called(name)) for name in ("forbidden", "__import__", "os.system", "../granted")
    ],
    "often": [("often", often)],
    "arguments": [
        ("wrong-type", lambda: called("granted", number="1; drop")),
        ("one-more", lambda: called("granted", number=1, extra=2)),
        ("none", lambda: called("granted")),
        ("large", lambda: called("granted", number=1, padding="x" * 4096)),
    ],
}
attempts(ways[ARG["way"]])
