"""isolation.*: what a sandbox can see of its neighbours and of the host: nothing."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import pytest

from jubako.errors import GuestFileError
from jubako.policy import FilePolicy, Mount, Policy
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import marker, read_until

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
import socket, sys
family, address = sys.argv[1:]
if family == "tcp":
    client = socket.socket(); client.settimeout(2); target = ("127.0.0.1", int(address))
else:
    client = socket.socket(socket.AF_UNIX); client.settimeout(2); target = address.replace("@", chr(0))
try:
    client.connect(target); print(client.recv(10).decode())
except OSError as error:
    print("refused", error.errno)
"""
_METADATA: Final = """
import socket
client = socket.socket(); client.settimeout(2)
try:
    client.connect(("169.254.169.254", 80)); print("reached")
except OSError:
    print("refused")
"""
_WRITABLE: Final = """
for place in / /usr /usr/bin /etc /bin /lib /opt /var /home /root /run /dev /proc /sys; do
    test -d $place && (: > $place/.jubako-test) 2>/dev/null && echo $place
done
true
"""
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
        places = (str(first.workspace), "/tmp", "/dev/shm")
        for place in places:
            await first.ok('echo secret > "$1/neighbour"', place)
        for place in places:
            assert (await second.sh('test -e "$1/neighbour"', place)).status.code == 1
            await second.ok('echo other > "$1/neighbour"', place)
        for place in places:
            assert await first.ok('cat "$1/neighbour"', place) == "secret"

    @check("isolation.fresh")
    async def test_isolation_fresh(self, make_guest: MakeGuest) -> None:
        """A new sandbox has nothing of those before it: workspace and /tmp are empty."""
        first = await make_guest()
        await first.files.write(first.workspace / "left-over", b"secret")
        await first.files.write(PurePosixPath("/tmp/left-over"), b"secret")
        await first.instance.destroy()
        second = await make_guest()
        assert await second.ok('ls -A "$1" /tmp', str(second.workspace)) == f"/tmp:\n\n{second.workspace}:"

    @check("isolation.processes")
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

    @check("isolation.sockets")
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

    @check("isolation.shared-memory")
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
        assert await first.ok("uname -n") != socket.gethostname()
        read = "cat /etc/machine-id 2>/dev/null || true"
        ids = [await first.ok(read), await second.ok(read)]
        ids.append(_host_machine_id())
        known = [item for item in ids if item]
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
            assert (await guest.run("cat", str(path))).status.code == 1
            with pytest.raises(GuestFileError):
                await guest.files.read(PurePosixPath(path), limit=100)
        finally:
            path.unlink()

    @check("isolation.host-processes")
    async def test_isolation_host_processes(self, guest: Guest) -> None:
        """No process of the host is visible."""
        pids = [int(line) for line in (await guest.ok("cd /proc && ls -d [0-9]*")).split()]
        assert len(pids) < 12, f"strangers among {pids}"
        assert (await guest.sh("grep -las [p]ytest /proc/[0-9]*/cmdline")).text == ""

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
        names = await guest.ok("cut -s -d: -f1 /proc/net/dev")
        assert names.split() in ([], ["lo"])
        assert (await guest.py(_METADATA)).text == "refused"

    @check("isolation.loopback")
    async def test_isolation_loopback(self, guest: Guest) -> None:
        """Programs of one sandbox reach each other over the loopback."""
        server = await guest.start(*guest.python(_LISTEN, "tcp", "-"))
        port = (await read_until(server.stdout, b"\n")).decode().strip()
        assert (await guest.py(_CONNECT, "tcp", port)).text == "reached"
        await server.kill()

    @check("isolation.read-only")
    async def test_isolation_read_only(self, guest: Guest) -> None:
        """Nothing but workspace, /tmp and /dev/shm is writable, and those three are."""
        assert await guest.ok(_WRITABLE) == ""
        await guest.ok('for d in "$1" /tmp /dev/shm; do : > $d/file || exit 1; done', str(guest.workspace))

    @check("isolation.privileges")
    async def test_isolation_privileges(self, guest: Guest) -> None:
        """A program is an ordinary user without capabilities, and can't gain any."""
        assert await guest.ok("id -u") != "0"
        status = dict(
            line.split(":\t") for line in (await guest.ok("grep -e ^Cap -e ^NoNewPrivs /proc/self/status")).splitlines()
        )
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"

    @check("isolation.namespaces")
    async def test_isolation_namespaces(self, guest: Guest) -> None:
        """A program can make no namespace and mount nothing."""
        for command in ("unshare -U true", "unshare -Ur mount -t tmpfs none /tmp", "mount -t tmpfs none /tmp"):
            assert (await guest.sh(command)).status.code != 0

    @check("isolation.descriptors")
    async def test_isolation_descriptors(self, make_guest: MakeGuest) -> None:
        """A program has its three standard streams and no other descriptor of the host."""
        read, write = os.pipe()
        os.set_inheritable(read, True)  # noqa: FBT003  # positional only
        try:
            guest = await make_guest()
            listed = await guest.run("ls", "/proc/self/fd")
        finally:
            os.close(read)
            os.close(write)
        # The fourth is the directory that ls itself has open.
        assert listed.text.split() == ["0", "1", "2", "3"]

    @check("isolation.mounts")
    async def test_isolation_mounts(self, bench: Workbench) -> None:
        """A mount of the policy is at its place, read-only, and brings nothing else with it."""
        shared = bench.setup.root / f"shared-{marker()}"
        shared.mkdir(mode=0o755)
        (shared / "file").write_text("granted", encoding="ascii")
        policy = Policy(files=FilePolicy(mounts=(Mount(source=str(shared), target="/data/shared", access="ro"),)))
        guest = await bench.make_guest(policy)
        assert (
            await guest.ok("cat /data/shared/file; ls -A /data /data/shared")
            == "granted/data:\nshared\n\n/data/shared:\nfile"
        )
        assert (await guest.sh(": > /data/shared/new")).status.code != 0
        assert [item.name for item in shared.iterdir()] == ["file"]
        assert (await guest.sh('test -e "$1"', str(shared))).status.code == 1

    @check("isolation.hidden")
    async def test_isolation_hidden(self, make_guest: MakeGuest) -> None:
        """What the policy hides is empty inside."""
        guest = await make_guest(Policy(files=FilePolicy(hide=("/usr/share",))))
        assert await guest.ok("ls -A /usr/share") == ""

    @check("isolation.clock")
    async def test_isolation_clock(self, guest: Guest) -> None:
        """The clock can't be set."""
        assert (await guest.sh("date -s 2001-01-01")).status.code != 0
