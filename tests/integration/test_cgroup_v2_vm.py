"""Cgroup v2 with all its controllers, for real: the group tests inside a small virtual machine.

This machine's own controllers may be bound to v1, and a controller lives in one version only. Debian's
cloud kernel boots with ``cgroup_no_v1=all`` from an initial file system made here: Python, this
package, pytest, the tests. Emulated, without KVM, yet within some 20 s; bounded by ``SECONDS``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
PACKAGES = ("_pytest", "anyio", "idna", "iniconfig", "jubako", "packaging", "pluggy", "py", "pygments", "pytest",
            "typing_extensions")  # fmt: skip
PROGRAMS = ("sh", "sleep", "echo", "setpriv")
UNUSED = re.compile(
    r"/(config-3|test|idlelib|ensurepip|lib2to3|tkinter|turtle|distutils|dist-packages|lib-dynload|"
    r"pydoc|xmlrpc|wsgiref|sqlite3|venv|curses|trio|_backends/_trio|runtime|testing|drivers|probes|guest|agent|cli|sync|sinks)"
)
LARGE = (
    "_dbm",
    "_gdbm",
    "_hashlib",
    "_sqlite3",
    "_ssl",
    "_test",
    "_tkinter",
    "_codecs_",
    "_curses",
    "readline",
    "xxlimited",
)
SECONDS = 90.0


class Image:
    """An initial file system in the kernel's cpio format."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def _entry(self, name: str, mode: int, data: bytes = b"", modified: int = 0) -> None:
        if name in self._names:
            return
        self._names.add(name)
        fields = (len(self._names), mode, 0, 0, 1, modified, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def directory(self, path: str) -> None:
        parts = path.strip("/").split("/")
        for count in range(1, len(parts) + 1):
            self._entry("/".join(parts[:count]), 0o040755)

    def file(self, source: Path, target: str | None = None) -> None:
        """Add a file; its modification time stays, or compiled modules would count as stale."""
        target = target or str(source)
        place = Path(os.path.realpath(Path(target).parent)) / Path(target).name
        self.directory(str(place.parent))
        mode = 0o100755 if os.access(source, os.X_OK) else 0o100644
        self._entry(str(place).strip("/"), mode, source.read_bytes(), int(source.stat().st_mtime))

    def text(self, target: str, text: str) -> None:
        self.directory(str(Path(target).parent))
        self._entry(target.strip("/"), 0o100644, text.encode())

    def link(self, name: str, target: str) -> None:
        self._entry(name.strip("/"), 0o120777, target.encode())

    def tree(self, source: Path, target: str) -> None:
        for path in sorted(source.rglob("*")):
            if path.is_file() and not UNUSED.search(str(path)):
                self.file(path, f"{target}/{path.relative_to(source)}")

    def program(self, path: Path) -> None:
        """Add an executable or shared object with the libraries that it needs."""
        self.file(path)
        listed = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+)", listed):
            self.file(Path(library))

    def bytes(self) -> bytes:
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)


def _kernel() -> tuple[Path, Path] | None:
    """Return a cloud kernel and its modules; JUBAKO_TEST_KERNEL may name a directory with an unpacked package."""
    root = Path(os.environ.get("JUBAKO_TEST_KERNEL", "/"))
    for image in sorted(root.glob("boot/vmlinuz-*-cloud-amd64"), reverse=True):
        modules = root / "lib/modules" / image.name.removeprefix("vmlinuz-")
        if modules.is_dir() and os.access(image, os.R_OK):
            return image, modules
    return None


def _add_packages(image: Image, target: str) -> None:
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            pytest.skip(f"{name} is not installed")
        # Into the standard library's directory, so that programs without any environment find them too.
        if found.submodule_search_locations:
            image.tree(Path(found.origin).parent, f"{target}/{name}")
        else:
            image.file(Path(found.origin), f"{target}/{name}.py")


def _image(modules: Path) -> bytes:
    image = Image()
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path(f"/{name}").is_symlink():
            image.link(name, str(Path(f"/{name}").readlink()))
    for directory in ("/proc", "/sys", "/dev", "/tmp", "/root", "/tests"):
        image.directory(directory)
    python = Path(os.path.realpath(sys.executable))
    image.program(python)
    image.link("python", str(python))
    standard = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    image.tree(standard, str(standard))
    for path in (standard / "lib-dynload").glob("*.so"):
        if not path.name.startswith(LARGE):
            image.program(path)
    _add_packages(image, str(standard))
    for name in PROGRAMS:
        place = shutil.which(name)
        if place is None:
            pytest.skip(f"{name} is not installed")
        image.program(Path(place))
    wanted = [path for name in ("configfs", "null_blk") for path in sorted(modules.rglob(f"{name}.ko"))]
    for path in wanted:
        image.file(path, f"/{path.name}")
    image.text("/modules", "\n".join(f"/{path.name}" for path in wanted))
    image.file(HERE.parent / "unit/linux/test_linux_cgroup.py", "/tests/test_linux_cgroup.py")
    image.file(HERE / "cgroup_v2_guest.py", "/guest.py")
    return image.bytes()


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Boot once and return what every stage said."""
    emulator = shutil.which("qemu-system-x86_64")
    kernel = _kernel()
    if emulator is None:
        pytest.skip("qemu-system-x86 is not installed")
    if kernel is None:
        pytest.skip("linux-image-cloud-amd64 is not installed")
    initrd = tmp_path_factory.mktemp("vm") / "initrd"
    initrd.write_bytes(_image(kernel[1]))
    command = [
        emulator, "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-nodefaults",
        "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel[0]), "-initrd", str(initrd),
        "-append", "console=ttyS0 cgroup_no_v1=all panic=-1 quiet loglevel=3 rdinit=/python -- /guest.py",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS, stdin=subprocess.DEVNULL)
        text, error = done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        text, error = late.stdout or b"", late.stderr or b""
    console = text.decode("utf-8", "replace")
    results: dict[str, Any] = {"console": f"{console[-4000:]}\n{error.decode('utf-8', 'replace')[-1000:]}"}
    for record in re.findall(r"@@(\{.*?\})@@\r?\n", console):
        results |= json.loads(record)
    return results


pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


def test_every_limit_is_held_and_read_back(guest: dict[str, Any]) -> None:
    outcome = guest.get("abilities", guest["console"])
    abilities = ("memory", "swap", "processes", "cpu", "io", "freeze", "kill")
    assert outcome["how"] == dict.fromkeys(abilities, "v2"), outcome
    assert outcome["why"] == {}
    disk = outcome["seen"].pop("io")
    assert outcome["seen"] == {
        "memory": f"memory.max={100 << 20}",
        "swap": "memory.swap.max=0",
        "processes": "pids.max=17",
        "cpu": "cpu.max=25000 100000",
    }
    assert re.fullmatch(rf"io\.max=\d+:0 rbps={5 << 20} wbps={5 << 20} riops=max wiops=max", disk)
    assert outcome["left"] == []


def test_ordinary_user_works_in_a_delegated_subtree(guest: dict[str, Any]) -> None:
    outcome = guest.get("delegated", guest["console"])
    assert outcome["base"] == "/sys/fs/cgroup/delegated", outcome
    assert outcome["status"] == -9
    assert outcome["verified"] == ["cpu", "memory", "processes", "swap"]


def test_lone_process_steps_aside(guest: dict[str, Any]) -> None:
    outcome = guest.get("aside", guest["console"])
    assert outcome["base"] == "/sys/fs/cgroup/job", outcome
    assert outcome["verified"] == ["cpu", "memory", "processes", "swap"]
    assert outcome["status"] == -9
    assert outcome["left"] == ["jubako.self"]


def test_ordinary_user_without_a_subtree_is_told_why(guest: dict[str, Any]) -> None:
    outcome = guest.get("undelegated", guest["console"])
    assert outcome == {"how": 0, "codes": ["cgroup-not-writable"]}


def test_the_group_tests_pass_on_pure_v2(guest: dict[str, Any]) -> None:
    outcome = guest.get("suite", {"status": None})
    assert outcome["status"] == 0, guest["console"]
    assert int(re.findall(r"(\d+) passed", guest["console"])[-1]) >= 20, guest["console"]
