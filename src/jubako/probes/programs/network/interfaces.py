# See or use any network interface but the own loopback.
def seen():
    with open("/proc/net/dev") as file:
        names = [line.split(":")[0].strip() for line in file if ":" in line]
    others = [name for name in names if name != "lo"]
    return "sees " + " ".join(others[:8]) if others else ""


def routed():
    with open("/proc/net/route") as file:
        lines = [line.split() for line in file][1:]
    others = [line[0] for line in lines if line and line[0] != "lo"]
    return "routes over " + " ".join(others[:8]) if others else ""


attempts([("interfaces", seen), ("routes", routed)])
