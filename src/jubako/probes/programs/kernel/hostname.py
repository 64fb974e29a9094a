# Change the host's name.
import ctypes


def name():
    call("sethostname", b"probe", 5)
    return "named"


def domain():
    call("setdomainname", b"probe", 5)
    return "domain named"


attempts([("host", lambda: in_child(name)), ("domain", lambda: in_child(domain))])
