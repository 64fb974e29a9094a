"""The ground on which probes run: marked files, services and objects of the host, made and removed for one run.

Everything here is harmless and private to the run; nothing of the host's own is touched.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from jubako._lib.paths import state_dir
from jubako.errors import JubakoError
from jubako.linux.procinfo import boot_id
from jubako.probes.kernelobjects import HostIpc, file_handle
from jubako.probes.listeners import Listeners
from jubako.probes.reference import find_python
from jubako.probes.remains import open_remains

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Iterator

    from anyio.abc import TaskGroup

    from jubako.probes.remains import Remains

__all__ = ["MACHINE_STATE", "ORDINARY", "Ground", "open_ground"]

ORDINARY: Final = 1_980_000_021
"""The host user that programs outside run as when the caller is root: above all that own anything."""
MACHINE_STATE: Final = (
    "/proc/cmdline", "/proc/iomem", "/proc/ioports", "/proc/diskstats", "/proc/partitions", "/proc/modules",
    "/proc/config.gz", "/proc/acpi", "/proc/scsi", "/proc/pressure",
)  # fmt: skip
"""What tells about the machine in the host's /proc."""
_OTHER: Final = ORDINARY + 1
_BASE: Final = "/tmp"  # noqa: S108  # other users must be able to get there, so no private temporary directory
_SECRET_VARIABLE: Final = "JUBAKO_PROBE_SECRET"  # noqa: S105  # a made-up one, to be found or not


@dataclass(slots=True)
class Ground:
    """What programs are told, and where they may play.

    Attributes:
        mark: The text that proves that something was read.
        base: Directory of the run.
        room: Throw-away directory of programs that run outside.
        granted: Directory that sandboxes see read-only at ``/mnt/granted``.
        identity: Host user of programs outside, where the caller is root.
        values: What ``{name}`` in arguments stands for.
        missing: Why a value could not be had.
        listeners: Services of the host.
    """

    mark: str
    base: Path
    room: Path
    granted: Path
    identity: int | None
    listeners: Listeners
    values: dict[str, str] = field(default_factory=dict[str, str])
    missing: dict[str, str] = field(default_factory=dict[str, str])

    def fresh_room(self, name: str) -> Path:
        """Return a new directory that programs outside may write to."""
        path = self.room / name
        path.mkdir(mode=0o755)
        self.give(path)
        return path

    def give(self, path: Path) -> None:
        """Make a path belong to the programs outside."""
        if self.identity is not None:
            os.chown(path, self.identity, self.identity, follow_symlinks=False)

    @property
    def environment(self) -> dict[str, str]:
        """What programs outside get, unless they inherit everything."""
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.room)}


@asynccontextmanager
async def open_ground() -> AsyncGenerator[Ground]:
    """Yield a ground and remove it afterwards, whatever happened."""
    mark = f"mark-{secrets.token_hex(12)}"
    identity = ORDINARY if os.geteuid() == 0 else None
    async with AsyncExitStack() as stack:
        base = Path(_BASE, f"jubako-probe-{secrets.token_hex(6)}")
        remains = stack.enter_context(open_remains(base.name))
        remains.path(base)
        base.mkdir(mode=0o700)  # noqa: ASYNC240  # one quick call on a local file
        stack.push_async_callback(_remove, base)
        os.chmod(base, 0o755)  # noqa: PTH101, S103  # other users run programs in it
        listeners = Listeners(abstract=base.name, path=base / "service")
        stack.callback(listeners.close)
        listeners.serve(await stack.enter_async_context(_background()))
        ground = Ground(mark, base, base / "room", base / "granted", identity, listeners)
        ground.room.mkdir(mode=0o755)
        ground.give(ground.room)
        _lay_files(ground)
        for path in _marked_files(ground, remains):
            stack.callback(path.unlink, missing_ok=True)
        ipc = HostIpc(mark.encode(), remains.ipc)
        stack.callback(ipc.close)
        ground.values |= ipc.values
        ground.missing |= ipc.missing
        _describe_network(ground)
        _describe_host(ground)
        stack.enter_context(_secret_variable(mark))
        stack.enter_context(_open_file(ground))
        yield ground


async def _remove(base: Path) -> None:
    """Remove the run's directory, waiting for a program in it that dies by itself within seconds."""
    with anyio.CancelScope(shield=True):
        for _ in range(40):
            shutil.rmtree(base, ignore_errors=True)
            if not os.path.lexists(base):  # noqa: ASYNC240  # a quick look at a local name
                return
            await anyio.sleep(0.1)


@asynccontextmanager
async def _background() -> AsyncGenerator[TaskGroup]:
    """A task group that is cancelled at the end and never wraps the body's own error into a group."""
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    try:
        yield tasks
    finally:
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)


def _lay_files(ground: Ground) -> None:
    secret = ground.base / "secret"
    hidden = ground.granted / "hidden"
    for folder in (secret, ground.granted, hidden, *(ground.room / name for name in ("etc", "workspace", "tmp"))):
        folder.mkdir(mode=0o755)
    for name in ("etc", "workspace", "tmp"):
        ground.give(ground.room / name)
    for path in (secret / "file", hidden / "file", ground.granted / "file"):
        path.write_text(ground.mark)
        path.chmod(0o644)
    # Belongs to the programs outside, so that without the wall they can write to it and link it.
    ground.give(ground.granted)
    ground.give(ground.granted / "file")
    (ground.granted / "file").chmod(0o666)  # so that only the mount forbids what is tried on it
    (ground.granted / "open").mkdir()
    (ground.granted / "open").chmod(0o777)
    (ground.granted / "outward").symlink_to(secret / "file")
    for name in ("workspace", "tmp"):
        (ground.room / name / "neighbour").write_text(ground.mark)
    (ground.room / "etc" / "tool").write_text("a tool\n")
    ground.give(ground.room / "etc" / "tool")
    ground.values |= {
        "mark": ground.mark,
        "base": str(ground.base),
        "secret": str(secret / "file"),
        "granted": str(ground.granted),
        "room": str(ground.room),
        "service": str(ground.base / "service"),
        "abstract": ground.base.name,
    }
    _lay_programs(ground)
    try:
        handle, kind = file_handle(str(secret / "file"))
        ground.values |= {"handle": handle, "handle_type": str(kind)}
    except OSError as error:
        ground.missing["handle"] = f"files here have no handle: {error.strerror}"


def _lay_programs(ground: Ground) -> None:
    """Copies of the interpreter: one to be overwritten, one setuid to nobody in particular, one with capabilities."""
    python = os.path.realpath(find_python())
    own = ground.room / "interpreter"
    shutil.copyfile(python, own)
    own.chmod(0o755)
    ground.give(own)
    ground.values["interpreter"] = str(own)
    for name in ("setuid", "capable"):
        if os.geteuid() != 0:
            ground.missing[name] = "only root can prepare such a program"
            continue
        path = ground.granted / name
        shutil.copyfile(python, path)
        path.chmod(0o755)
        if name == "setuid":
            os.chown(path, _OTHER, _OTHER)
            path.chmod(0o6755)
        else:
            # Revision 2, effective flag, CAP_WAKE_ALARM permitted, which is of no use to anybody who finds the file.
            data = b"".join(word.to_bytes(4, "little") for word in (0x02000001, 0, 0, 1 << 3, 0))
            try:
                os.setxattr(path, "security.capability", data)
            except OSError as error:
                ground.missing[name] = f"no file capabilities here: {error.strerror}"
                continue
        ground.values[name] = str(path)


def _marked_files(ground: Ground, remains: Remains) -> list[Path]:
    """Marked files in the places where people and programs keep things."""
    made: list[Path] = []
    places = {"home": Path.home(), "var": Path("/var/tmp"), "host_tmp": Path(_BASE), "shm": Path("/dev/shm")}  # noqa: S108
    with suppress(JubakoError):
        places["state"] = state_dir()
    for name, folder in places.items():
        path = folder / f".{ground.base.name}-{name}"
        remains.path(path)
        try:
            path.write_text(ground.mark)
        except OSError as error:
            ground.missing[name] = f"{folder} can't be written: {error.strerror}"
            continue
        path.chmod(0o644)
        made.append(path)
        ground.values[name] = str(path)
        ground.values[f"{name}_name"] = path.name
    if "state" not in places:
        ground.missing["state"] = "no state directory"
    return made


def _digests(paths: Iterable[str]) -> Iterator[str]:
    """What the host itself reads there, so that a made-up text inside is not taken for it."""
    for path in paths:
        with suppress(OSError), Path(path).open("rb") as file:
            yield hashlib.sha256(file.read(4096)).hexdigest()


def _describe_network(ground: Ground) -> None:
    listeners = ground.listeners
    ground.values |= {
        "loopback": "127.0.0.1",
        "tcp_port": str(listeners.tcp_port),
        "udp_port": str(listeners.udp_port),
    }
    if len(listeners.addresses) > 1:
        ground.values["address"] = listeners.addresses[1]
    else:
        ground.missing["address"] = "this machine has no address but loopback"
    if listeners.tcp6_port is not None:
        ground.values["tcp6_port"] = str(listeners.tcp6_port)
    else:
        ground.missing["tcp6_port"] = "this machine has no IPv6 loopback"


def _describe_host(ground: Ground) -> None:
    ground.values |= {
        "hostname": os.uname().nodename,
        "boot": boot_id(),
        "machine_state": ",".join(_digests(MACHINE_STATE)),
        "userns": str(Path("/proc/self/ns/user").stat().st_ino),
        "uid": str(os.geteuid()),
    }
    with suppress(OSError):
        ground.values["machine"] = Path("/etc/machine-id").read_text("ascii").strip()
    if not ground.values.get("machine"):
        ground.missing["machine"] = "this machine has no machine id"


@contextmanager
def _secret_variable(mark: str) -> Generator[None]:
    # In this process's own environment, as a careless caller would have it.
    os.environ[_SECRET_VARIABLE] = mark
    try:
        yield
    finally:
        os.environ.pop(_SECRET_VARIABLE, None)


@contextmanager
def _open_file(ground: Ground) -> Generator[None]:
    """A marked file open and inheritable in this process, as a careless caller would have it."""
    with (ground.base / "secret" / "file").open("rb") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003  # its only form
        ground.values["descriptor"] = str(file.fileno())
        yield
