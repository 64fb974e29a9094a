# Make a socket of every family and kind. Only made, never used.
import socket

USUAL = {1: "unix", 2: "inet", 10: "inet6"}
made, refused = [], set()
for family in range(0, 64):
    for kind in (1, 2, 3, 4, 5, 6, 10):
        if family == 1 and kind in (1, 2, 3, 5) or family in (2, 10) and kind in (1, 2):
            continue
        try:
            socket.socket(family, kind).close()
            made.append("%d/%d" % (family, kind))
        except OSError as error:
            refused.add(word(error))
if made:
    escaped("family/kind made: %s" % " ".join(made))
contained("all others refused: %s" % " ".join(sorted(refused)))
