"""The filter in the running kernel: refused calls are refused, programs work."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jubako.linux.seccomp import DEFAULT, Arch, Verdict, current_arch, numbers

HERE = Path(__file__).parent
RUNNER = [sys.executable, str(HERE / "linux_filtered.py")]
TABLE = numbers(current_arch())


def calls(*wanted: tuple[str | int, ...]) -> list[tuple[int, ...]]:
    numbered = [[TABLE[item] if isinstance(item, str) else item for item in call] for call in wanted]
    done = subprocess.run(
        [*RUNNER, "calls"],
        input=json.dumps(numbered),
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    return [tuple(pair) for pair in json.loads(done.stdout)]


def program(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [*RUNNER, "exec", *argv], capture_output=True, text=True, cwd=cwd, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_refused_call_is_refused() -> None:
    refused = [
        (name, leaf.errno)
        for name, leaf in DEFAULT.entries()
        if isinstance(leaf, Verdict) and leaf is not Verdict.ALLOW and name in TABLE
    ]
    # All-ones arguments are harmless to every call, should one get through.
    seen = calls(*((name, *(-1,) * 6) for name, _ in refused))
    assert {name: pair for (name, _), pair in zip(refused, seen, strict=True)} == {
        name: (-1, number) for name, number in refused
    }
    assert len(refused) > 80


def test_refused_arguments_are_refused() -> None:
    rubbish = 0xDEAD_BEEF << 32
    wanted = [
        (("clone", 0x10000011, 0, 0, 0, 0), errno.EPERM),
        (("clone", rubbish | 0x00020011, 0, 0, 0, 0), errno.EPERM),
        (("ioctl", 0, 0x5412, 0), errno.EPERM),
        (("ioctl", 0, 0x100005412, 0), errno.EPERM),
        (("ioctl", 0, 0x541C, 0), errno.EPERM),
        (("ioctl", 0, rubbish | 0x5423, 0), errno.EPERM),
        (("prctl", 22, 2, 0), errno.EPERM),
        (("prctl", 999, 0, 0), errno.EINVAL),
        (("personality", 0x0400000), errno.EPERM),
        (("setsockopt", 0, 1, 26, 0, 0), errno.EPERM),
        (("socketpair", 2, 1, 0, 0), errno.EAFNOSUPPORT),
        (("mknodat", -100, 0, 0x2000 | 0o600, 0x103), errno.EPERM),
        (("socket", 1, 3, 0), errno.EPERM),
        (("socket", 2, 3, 1), errno.EPERM),
        (("socket", 2, rubbish | 0x80003, 1), errno.EPERM),
        (("socket", 2, 1, 262), errno.EPROTONOSUPPORT),
        (("socket", 2, 5, 132), errno.ESOCKTNOSUPPORT),
        *((("socket", family, 3, 0), errno.EAFNOSUPPORT) for family in range(46) if family not in {1, 2, 10}),
    ]
    seen = calls(*(call for call, _ in wanted))
    assert seen == [(-1, number) for _, number in wanted]


def test_numbers_from_the_future_are_unknown() -> None:
    assert calls((471,), (599,), (5000,)) == [(-1, errno.ENOSYS)] * 3


def test_allowed_calls_reach_the_kernel() -> None:
    seen = calls(
        ("getpid",),
        ("socket", 1, 1, 0),
        ("socket", 2, 0x80001, 6),
        ("socket", 10, 2, 0),
        ("personality", 0xFFFFFFFF),
        ("prctl", 38, 1, 0, 0, 0),
        ("memfd_create", 0, 0),
        ("ioctl", -1, 0x5401, 0),
        ("landlock_create_ruleset", 0, 0, 1),
    )
    assert all(result >= 0 for result, _ in seen[:6])
    assert seen[6:8] == [(-1, errno.EFAULT), (-1, errno.EBADF)]
    assert seen[8][0] > 0 or seen[8][1] in {errno.ENOSYS, errno.EOPNOTSUPP}


@pytest.mark.skipif(current_arch() is not Arch.X86_64, reason="x86-64 has these ways in")
def test_foreign_entry_points_end_the_process() -> None:
    script = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import ctypes, mmap
from linux_bpf import load
from jubako.linux.seccomp import DEFAULT, compile_filter
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of 32-bit x86); int 0x80; ret
call = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
libc = ctypes.CDLL(None)
if "filter" in sys.argv: load(compile_filter(DEFAULT))
print(call() if "int80" in sys.argv else libc.syscall(ctypes.c_long(0x40000000 | 39)), flush=True)
"""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)

    open_way = run("int80")
    filtered = run("int80", "filter")
    if open_way.returncode == 0:  # a kernel with 32-bit emulation: without the filter the call works
        assert int(open_way.stdout) > 0
        assert (filtered.returncode, filtered.stdout) == (-31, "")
    x32 = run("x32", "filter")
    assert (x32.returncode, x32.stdout) == (-31, "")  # SIGSYS


def test_python_works(tmp_path: Path) -> None:
    script = """
import asyncio, concurrent.futures, ctypes, hashlib, multiprocessing, os, pty, shutil, signal, socket, sqlite3, ssl
import subprocess, tempfile, threading, time, zlib
def main():
    assert subprocess.run(["/bin/sh", "-c", "echo sub"], capture_output=True).stdout == b"sub\\n"
    with multiprocessing.Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
    with concurrent.futures.ThreadPoolExecutor() as pool: assert list(pool.map(abs, [-3])) == [3]
    server = socket.create_server(("127.0.0.1", 0)); link = socket.create_connection(server.getsockname())
    assert socket.getaddrinfo("localhost", 80)
    async def loop():
        process = await asyncio.create_subprocess_exec("true"); return await process.wait()
    assert asyncio.run(loop()) == 0
    left, right = socket.socketpair(); left.send(b"x"); assert right.recv(1) == b"x"
    sqlite3.connect("a.db").execute("create table t(x)")
    shutil.copytree("/etc/default", "copied", symlinks=True)
    os.mkfifo("fifo"); os.setxattr("a.db", "user.a", b"1"); os.sendfile; os.sched_getaffinity(0)
    master, slave = pty.openpty(); os.write(slave, b"hi\\n"); assert os.read(master, 10) == b"hi\\r\\n"
    signal.alarm(0); time.sleep(0.001)
    print("fine")
if __name__ == "__main__": main()
"""
    (tmp_path / "job.py").write_text(script)
    assert program(sys.executable, "job.py", cwd=tmp_path) == "fine\n"


def test_numpy_works() -> None:
    pytest.importorskip("numpy")
    script = (
        "import numpy as n; a = n.eye(200); print(int(n.linalg.inv(a @ a).sum()), n.random.default_rng(1).integers(9))"
    )
    assert program(sys.executable, "-c", script).split()[0] == "200"


def test_shell_and_tools_work(tmp_path: Path) -> None:
    script = """
set -e
(echo one) & wait; diff <(echo a) <(echo a); mkdir -p d/e; cp -a /etc/hostname d/e/
tar cf t.tar d; tar tf t.tar | wc -l
sort --parallel=2 <<< $'b\\na' | head -1; find . -name '*.tar'; ulimit -n 64
trap 'echo term' TERM; kill -TERM $$; mkfifo f
"""
    (tmp_path / "job.sh").write_text(script)
    assert program("bash", "job.sh", cwd=tmp_path).split() == ["one", "3", "a", "./t.tar", "term"]


def test_compiler_works(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    (tmp_path / "a.c").write_text('#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n')
    program("gcc", "-O2", "-pipe", "-o", "a", "a.c", cwd=tmp_path)
    assert program("./a", cwd=tmp_path) == "built\n"


def test_git_works(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    program("git", "init", "-q", "repo", cwd=tmp_path)
    program("git", "-C", "repo", "-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "x",
            cwd=tmp_path)  # fmt: skip
    program("git", "clone", "-q", "repo", "copy", cwd=tmp_path)
    assert program("git", "-C", "copy", "log", "--format=%s", cwd=tmp_path) == "x\n"


def test_node_works(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = """
const fs = require("fs"), http = require("http"), { execSync } = require("child_process");
const { Worker } = require("worker_threads");
fs.writeFileSync("x", "hi");
let sum = 0; for (let i = 0; i < 3e6; i++) sum += i % 7;
const server = http.createServer((q, r) => r.end("ok")).listen(0, "127.0.0.1", async () => {
  const text = await new Promise(done => http.get({ port: server.address().port, host: "127.0.0.1" },
    r => r.on("data", d => done(d.toString()))));
  const read = (await fs.promises.readFile("x")).toString();
  new Worker("require('worker_threads').parentPort.postMessage(5)", { eval: true }).on("message", m => {
    console.log(text, read, execSync("echo sub").toString().trim(), sum, m); server.close(); process.exit(0); });
});
"""
    (tmp_path / "job.js").write_text(script)
    assert program("node", "job.js", cwd=tmp_path) == "ok hi sub 8999994 5\n"


def test_filter_loads_through_bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    from jubako.linux.seccomp import compile_filter

    handle = os.memfd_create("filter", 0)
    os.write(handle, compile_filter(DEFAULT))
    os.lseek(handle, 0, os.SEEK_SET)
    done = subprocess.run(
        ["bwrap", "--unshare-user", "--unshare-pid", "--as-pid-1", "--ro-bind", "/", "/", "--proc", "/proc",
         "--seccomp", str(handle), "sh", "-c", "grep Seccomp: /proc/self/status; unshare -U true"],
        pass_fds=[handle], capture_output=True, text=True, check=False,
    )  # fmt: skip
    os.close(handle)
    assert done.stdout.split() == ["Seccomp:", "2"]
    assert "Operation not permitted" in done.stderr
