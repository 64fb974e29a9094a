# Reach the terminal of whoever started all this.
def tty():
    fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    return "opened the controlling terminal %s" % os.ttyname(fd)


def console():
    os.close(os.open("/dev/console", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    return "opened the console"


attempts([("tty", tty), ("console", console)])
