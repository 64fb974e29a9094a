# Learn who the host is: its name and machine id.
def hostname():
    return "host name" if os.uname().nodename == ARG["hostname"] else ""


def machine():
    with open("/etc/machine-id") as file:
        return "machine id" if file.read().strip() == ARG["machine"] else ""


pairs = [("hostname", hostname)] if ARG.get("hostname") else []
attempts(pairs + ([("machine-id", machine)] if ARG.get("machine") else []))
