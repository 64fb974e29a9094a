# Make one socket by family, kind and protocol. Never connected to anything.
import socket


def act(kind):
    socket.socket(int(ARG["family"]), kind, int(ARG.get("protocol", "0"))).close()
    return "made"


attempts([("kind %s" % kind, lambda kind=kind: act(int(kind))) for kind in ARG["kinds"].split(",")])
