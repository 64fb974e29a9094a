"""isolation.*: what a sandbox can see of its neighbours and of the host: nothing."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import pytest

from jubako.boundary.contract import Feature
from jubako.errors import GuestFileError
from jubako.policy import FilePolicy, Mount, Policy
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import marker, read_until
from jubako.testing.conformance._programs import SHOW

if TYPE_CHECKING:
    from jubako.testing.conformance._bench import MakeGuest, Workbench
    from jubako.testing.conformance._guest import Guest

__all__ = ["IsolationChecks", "NeighbourChecks"]

_LISTEN: Final = """
import socket, sys, time
family, address = sys.argv[1:]
if family == "tcp":
    server = socket.create_server(("127.0.0.1", 0)); print(server.getsockname()[1], flush=True)
else:
    server = socket.socket(socket.AF_UNIX); server.bind(address.replace("@", chr(0)))
    server.listen(); print("0", flush=True)
while True:
    peer = server.accept()[0]; peer.sendall(b"reached"); peer.close()
"""
_CONNECT: Final = """
import sys
family, address = sys.argv[1:]
try:
    import socket
    if family == "tcp":
        client = socket.socket(); client.settimeout(2); target = ("127.0.0.1", int(address))
    else:
        client = socket.socket(socket.AF_UNIX); client.settimeout(2); target = address.replace("@", chr(0))
    client.connect(target); print(client.recv(10).decode())
except (AttributeError, ImportError, OSError) as error:
    print("refused", error)
"""
_METADATA: Final = """
try:
    import socket
    client = socket.socket(); client.settimeout(2)
    client.connect(("169.254.169.254", 80)); print("reached")
except (AttributeError, ImportError, OSError):
    print("refused")
"""
_INTERFACES: Final = """
try:
    with open("/proc/net/dev") as file:
        print(*(line.partition(":")[0].strip() for line in file if ":" in line))
except OSError:
    pass
"""
_WRITABLE: Final = """
import sys
for place in sys.argv[1:]:
    try:
        open(place + "/.jubako-test", "w").close()
        print(place)
    except OSError:
        pass
"""
_CLOSED: Final = (
    "/", "/usr", "/usr/bin", "/etc", "/bin", "/lib", "/opt", "/var", "/home", "/root", "/run", "/dev", "/proc", "/sys",
)  # fmt: skip
_FOUND: Final = "import os, sys; print(*filter(os.path.lexists, sys.argv[1:]), sep=chr(10))"
_IDENTITY: Final = """
import os
print(os.uname().nodename if hasattr(os, "uname") else "")
try:
    with open("/etc/machine-id") as file: print(file.read().strip())
except OSError:
    print("")
"""
_PROCESSES: Final = """
import os
try:
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
except OSError:
    pids = []
for pid in pids:
    try:
        with open("/proc/" + pid + "/cmdline", "rb") as file: print(pid, b"py" + b"test" in file.read())
    except OSError:
        pass
"""
_MOUNTED: Final = """
import os, sys
with open("/data/shared/file") as file: print(file.read())
print(*(os.listdir("/data") if os.path.isdir("/data") else ["shared"]), "and", *os.listdir("/data/shared"))
print(*filter(os.path.lexists, sys.argv[1:]))
try:
    open("/data/shared/new", "w").close()
    print("written")
except OSError:
    print("refused")
"""
_HIDDEN: Final = "import os; print(*(os.listdir('/usr/share') if os.path.isdir('/usr/share') else []))"
_CLOCK: Final = """
import time
try:
    time.clock_settime(time.CLOCK_REALTIME, 1e9)
    print("set")
except (AttributeError, OSError):
    print("refused")
"""
_NO_NEW_PRIVILEGES: Final = "import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))"
_SYSTEM_V: Final = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
print(libc.shmget(int(sys.argv[1]), 4096, 0o666 | (0o1000 if sys.argv[2] == "make" else 0)))
"""


def _host_machine_id() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class NeighbourChecks(Checks):
    """Two sandboxes at once, or one after the other."""

    @check("isolation.files")
    async def test_isolation_files(self, make_guest: MakeGuest) -> None:
        """A neighbour's workspace, /tmp and /dev/shm are not there."""
        first, second = await make_guest(), await make_guest()
        names = [f"{place}/neighbour" for place in first.writable]
        await first.make(*(f"{name}=secret" for name in names))
        assert await second.says(_FOUND, *names) == ""
        await second.make(*(f"{name}=other" for name in names))
        assert await first.cat(*names) == "secret" * len(names)

    @check("isolation.fresh")
    async def test_isolation_fresh(self, make_guest: MakeGuest) -> None:
        """A new sandbox has nothing of those before it: workspace and /tmp are empty."""
        first = await make_guest()
        await first.files.write(first.workspace / "left-over", b"secret")
        await first.files.write(PurePosixPath("/tmp/left-over"), b"secret")
        await first.instance.destroy()
        second = await make_guest()
        assert await second.ls(str(second.workspace)) == []
        assert await second.ls("/tmp") == []

    @check("isolation.processes", needs=Feature.PROCESSES)
    async def test_isolation_processes(self, make_guest: MakeGuest) -> None:
        """A neighbour's processes are not visible, and signals don't reach them."""
        first, second = await make_guest(), await make_guest()
        mark = marker()
        process = await first.start("sleep", mark)
        await first.until_alive(mark)
        assert await second.alive(mark) == 0
        await second.sh("kill -9 -1")
        assert await first.alive(mark) == 1
        await process.kill()

    @check("isolation.sockets", needs=Feature.PROCESSES)
    async def test_isolation_sockets(self, make_guest: MakeGuest) -> None:
        """A neighbour's sockets can't be reached: TCP on the loopback, Unix by path, Unix by abstract name."""
        first, second = await make_guest(), await make_guest()
        for family, address in (("tcp", "-"), ("unix", "/tmp/socket"), ("unix", f"@{marker()}")):
            server = await first.start(*first.python(_LISTEN, family, address))
            printed = (await read_until(server.stdout, b"\n")).decode().strip()
            target = printed if family == "tcp" else address
            assert (await first.py(_CONNECT, family, target)).text == "reached"
            assert (await second.py(_CONNECT, family, target)).text.startswith("refused")
            await server.kill()

    @check("isolation.shared-memory", needs=Feature.PROCESSES)
    async def test_isolation_shared_memory(self, make_guest: MakeGuest) -> None:
        """A neighbour's System V shared memory is not there."""
        first, second = await make_guest(), await make_guest()
        key = str(secrets.randbelow(2**30) + 1)
        made = await first.py(_SYSTEM_V, key, "make")
        if made.text == "-1":
            return  # System V memory is refused altogether: nothing to share
        assert (await second.py(_SYSTEM_V, key, "find")).text == "-1"

    @check("isolation.identity")
    async def test_isolation_identity(self, make_guest: MakeGuest) -> None:
        """Each sandbox has a host name and machine id that are neither the host's nor its neighbour's."""
        first, second = await make_guest(), await make_guest()
        (name, first_id, _), (other, second_id, _) = [
            (await guest.py(_IDENTITY)).stdout.decode().split("\n") for guest in (first, second)
        ]
        assert socket.gethostname() not in {name, other}
        known = [item for item in (first_id, second_id, _host_machine_id()) if item]
        assert len(set(known)) == len(known), "a machine id is shared"


class IsolationChecks(Checks):
    """One sandbox and the host."""

    @check("isolation.host-files")
    async def test_isolation_host_files(self, bench: Workbench) -> None:
        """A file of the host is not there."""
        path = bench.setup.root / f"host-{marker()}"
        path.write_text("secret of the host", encoding="ascii")
        path.chmod(0o644)
        try:
            guest = await bench.make_guest()
            assert (await guest.py(SHOW, str(path))).status.code == 1
            with pytest.raises(GuestFileError):
                await guest.files.read(PurePosixPath(path), limit=100)
        finally:
            path.unlink()

    @check("isolation.host-processes")
    async def test_isolation_host_processes(self, guest: Guest) -> None:
        """No process of the host is visible."""
        seen = (await guest.says(_PROCESSES)).splitlines()
        assert len(seen) < 12, f"strangers among {seen}"
        assert not any(line.endswith("True") for line in seen), seen

    @check("isolation.host-sockets")
    async def test_isolation_host_sockets(self, guest: Guest) -> None:
        """The host's sockets can't be reached: TCP on the loopback, Unix by abstract name."""
        name = f"@{marker()}"
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(name.replace("@", "\0"))
            unix.listen()
            port: int = tcp.getsockname()[1]
            assert (await guest.py(_CONNECT, "tcp", str(port))).text.startswith("refused")
            assert (await guest.py(_CONNECT, "unix", name)).text.startswith("refused")

    @check("isolation.network")
    async def test_isolation_network(self, guest: Guest) -> None:
        """With egress off there is no interface but the loopback, and no address can be reached."""
        assert await guest.says(_INTERFACES) in {"", "lo"}
        assert (await guest.py(_METADATA)).text == "refused"

    @check("isolation.loopback", needs=Feature.PROCESSES)
    async def test_isolation_loopback(self, guest: Guest) -> None:
        """Programs of one sandbox reach each other over the loopback."""
        server = await guest.start(*guest.python(_LISTEN, "tcp", "-"))
        port = (await read_until(server.stdout, b"\n")).decode().strip()
        assert (await guest.py(_CONNECT, "tcp", port)).text == "reached"
        await server.kill()

    @check("isolation.read-only")
    async def test_isolation_read_only(self, guest: Guest) -> None:
        """Nothing but workspace, /tmp and /dev/shm is writable, and those are, as far as programs can use them."""
        assert await guest.says(_WRITABLE, *_CLOSED, *guest.writable) == "\n".join(guest.writable)

    @check("isolation.privileges", needs=Feature.PROCESSES)
    async def test_isolation_privileges(self, guest: Guest) -> None:
        """A program is an ordinary user without capabilities, and can't gain any."""
        assert await guest.ok("id -u") != "0"
        sets = dict(line.split(":\t") for line in (await guest.ok("grep ^Cap /proc/self/status")).splitlines())
        assert sets.keys() >= {"CapInh", "CapPrm", "CapEff", "CapBnd"}  # not every kernel has ambient ones
        assert {int(value, 16) for value in sets.values()} == {0}
        assert await guest.says(_NO_NEW_PRIVILEGES) == "1"

    @check("isolation.namespaces", needs=Feature.PROCESSES)
    async def test_isolation_namespaces(self, guest: Guest) -> None:
        """A program can make no namespace and mount nothing."""
        for command in ("unshare -U true", "unshare -Ur mount -t tmpfs none /tmp", "mount -t tmpfs none /tmp"):
            assert (await guest.sh(command)).status.code != 0

    @check("isolation.descriptors", needs=Feature.PROCESSES)
    async def test_isolation_descriptors(self, make_guest: MakeGuest) -> None:
        """A program has its three standard streams and no other descriptor of the host."""
        read, write = os.pipe()
        os.set_inheritable(read, True)  # noqa: FBT003  # positional only
        try:
            guest = await make_guest()
            listed = await guest.ls("/proc/self/fd")
        finally:
            os.close(read)
            os.close(write)
        # The fourth is the directory that is being listed.
        assert listed == ["0", "1", "2", "3"]

    @check("isolation.mounts")
    async def test_isolation_mounts(self, bench: Workbench) -> None:
        """A mount of the policy is at its place, read-only, and brings nothing else with it."""
        shared = bench.setup.root / f"shared-{marker()}"
        shared.mkdir(mode=0o755)
        (shared / "file").write_text("granted", encoding="ascii")
        policy = Policy(files=FilePolicy(mounts=(Mount(source=str(shared), target="/data/shared", access="ro"),)))
        guest = await bench.make_guest(policy)
        seen = await guest.says(_MOUNTED, str(shared))
        assert seen == "granted\nshared and file\n\nrefused"
        assert [item.name for item in shared.iterdir()] == ["file"]

    @check("isolation.hidden")
    async def test_isolation_hidden(self, make_guest: MakeGuest) -> None:
        """What the policy hides is empty inside."""
        guest = await make_guest(Policy(files=FilePolicy(hide=("/usr/share",))))
        assert await guest.says(_HIDDEN) == ""

    @check("isolation.clock")
    async def test_isolation_clock(self, guest: Guest) -> None:
        """The clock can't be set."""
        assert await guest.says(_CLOCK) == "refused"
