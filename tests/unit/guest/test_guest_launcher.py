"""Programs that start as forks of a launcher, through a real agent."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import PurePosixPath
from secrets import token_hex
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako.boundary.contract import ExecRequest, TerminalSize
from jubako.errors import InvalidRequestError
from jubako.guest import LauncherConfig, launcher_text, preload_launcher

if TYPE_CHECKING:
    from conftest import Guest, OpenGuest

pytestmark = pytest.mark.anyio
SECOND = timedelta(seconds=1)
HERE = pytest.mark.parametrize(("anyio_backend", "place"), [("asyncio", "bwrap")])
"""What depends on neither is tried in one of them."""
LOADED = ("json", "random", "tempfile", "uuid", "threading", "asyncio")
PRELOAD = preload_launcher(LOADED)
WORKER = """
import os, sys, time
def main(serve, fail, arguments):
    print("diagnostics go nowhere")
    serve(int(arguments[-1]), run, check)
def check(argv, env):
    if argv[0] == "missing":
        return 3, "missing: not found"
    if argv[0] == "second-thread":
        import threading
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
def run(argv, env, cwd):
    if argv[0] == "raise":
        raise KeyError("mine")
    if argv[0] == "signal":
        return -int(argv[1])
    print(argv, env["A"], cwd, os.getcwd())
    return 300 if argv[0] == "big" else 7
"""


def mark() -> str:
    return f"3{int(token_hex(3), 16):08d}"


def worker(text: str = WORKER, *, everything: bool = True, seconds: float = 20) -> LauncherConfig:
    argv = ("python3", "-I", "-S", "-c", launcher_text(text))
    return LauncherConfig(argv=argv, env={"A": "a"}, everything=everything, ready=SECOND * seconds)


async def same(guest: Guest, *argv: str, **options: object) -> bytes:
    """Run a command cold and preloaded; return its output, which is the same."""
    cold = await guest.run(*argv, **options)  # type: ignore[arg-type]  # options go through as they are
    warm = await guest.run(*argv, preloaded=True, **options)  # type: ignore[arg-type]  # options go through as they are
    assert (warm.out, warm.err, warm.status) == (cold.out, cold.err, cold.status), argv
    return warm.out


CODES = [
    "import sys; print(sys.argv, sys.path, sys.orig_argv[1:], sys.executable)",
    "import sys; print(sorted(globals())); print(__name__, __doc__, __package__, __spec__, __loader__)",
    "import __main__; print(vars(__main__) is globals())",
    "def f():\n    1 / 0\nf()",
    "raise ValueError('no') from KeyError(1)",
    "print(1",
    "import sys; sys.exit()",
    "import sys; sys.exit(300)",
    "import sys; sys.exit(-1)",
    "import sys; sys.exit('text')",
    "import sys; sys.exit((1, 2))",
    "raise SystemExit",
    "raise KeyboardInterrupt",
    "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "import os; os.kill(os.getpid(), 11)",
    "import os; os._exit(9)",
    "import sys; print('out'); print('err', file=sys.stderr); print('no newline', end='')",
    "import sys; sys.stdout.write('x' * 200000)",
    "import sys; print(*[(s.encoding, s.errors, s.line_buffering, s.name, s.mode) for s in (sys.stdin, sys.stdout)])",
    "import sys; print(sys.stderr.errors, sys.stderr.line_buffering, sys.stdout.seekable())",
    "import signal; print([signal.getsignal(n) for n in range(1, 32)], signal.pthread_sigmask(0, []))",
    "import os; print(os.listdir('/proc/self/fd'), os.getpid() == os.getsid(0), os.umask(0), os.getcwd())",
    "import os; print({k: v for k, v in os.environ.items() if k != 'JUBAKO_EXEC_ID'})",
    "import atexit; atexit.register(print, 'at exit')",
    "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
    "f = open('left-open', 'w'); f.write('kept'); del f\ng = open('left-open'); print(g.read())",
    "import sys; sys.excepthook = lambda *a: print('hook', a[0]); 1 / 0",
    "import sys\ndef hook(*a): raise OSError('bad hook')\nsys.excepthook = hook\n1 / 0",
    "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1, -2]))",
    "import subprocess; print(subprocess.run(['echo', 'child'], capture_output=True).stdout)",
    "import asyncio; print(asyncio.run(asyncio.sleep(0, 'done')))",
    "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__module__)",
    "import os; print(os.read(0, 10))",
    "print(input())",
]


@HERE
async def test_a_fork_is_like_a_fresh_interpreter(open_guest: OpenGuest) -> None:
    async with open_guest(launcher=PRELOAD) as guest:
        for code in CODES:
            await same(guest, "python3", "-c", code, "a b", "-c", env={"MINE": "1"})
        await same(guest, "python3", "-c", "print(input())", data=b"typed\n")


@HERE
async def test_command_lines(open_guest: OpenGuest) -> None:
    show = "import sys; print(__name__, sys.argv, sys.path, sys.dont_write_bytecode, sys.warnoptions, sys._xoptions)"
    files = {
        "script.py": show + "; print(__file__)",
        "sub/other.py": show + "\nimport script",
        "package/__init__.py": "",
        "package/__main__.py": show + "; print(__package__, __spec__.name)",
        "package/bad.py": "1 / 0",
        "directory/__main__.py": show + "; import helper",
        "directory/helper.py": "print('helped')",
        "latin.py": "# coding: latin-1\nprint('\u00e9')",
        "bad.py": "def f():\n  x = = 1\n",
    }
    async with open_guest(launcher=PRELOAD) as guest:
        for name, text in files.items():
            data = text.encode("latin-1" if name == "latin.py" else "utf-8")
            await guest.session.files.write(PurePosixPath(name), data)
        for line in (
            ["python3", "script.py", "a", "-I"],
            ["python3", "-I", "script.py"],
            ["python3", "-B", "-u", "-W", "error", "-Werror::UserWarning", "-X", "a=1", "-Xb", "script.py", "x"],
            ["python3", "-IB", "-c", show],
            ["python3", "-sE", "-c" + show, "x"],
            ["python3", "-q", "-S", "-c", "import sys; print(sys.argv)"],
            ["python3", "sub/other.py"],
            ["python3", "./sub/../script.py"],
            ["python3", "-m", "package", "-v", "x"],
            ["python3", "-I", "-m", "package"],
            ["python3", "-mpackage.bad"],
            ["python3", "-m", "no.such.module"],
            ["python3", "-m", "json.tool", "/no/such"],
            ["python3", "directory"],
            ["python3", "-I", "directory/"],
            ["python3", "latin.py"],
            ["python3", "bad.py"],
            ["python3", "no-such.py"],
            ["python3", "sub"],
        ):
            await same(guest, *line)
        for line in (["python3"], ["python3", "-", "x"], ["python3", "-I", "-"]):
            await same(guest, *line, data=show.encode() + b"\n")
        await same(guest, "python3", "-c", show, env={"PYTHONPATH": "/a:/b", "PYTHONDONTWRITEBYTECODE": "1"})
        await same(guest, "python3", "-E", "-c", show, env={"PYTHONPATH": "/a:/b", "PYTHONSAFEPATH": "1"})
        await same(guest, "python3", "-c", show, env={"PYTHONWARNINGS": "error"}, cwd=PurePosixPath("/"))


async def test_command_lines_that_no_fork_can_run(open_guest: OpenGuest) -> None:
    async with open_guest(launcher=PRELOAD) as guest:
        for argv, text in (
            (("sh", "-c", "echo"), "python3 commands"),
            (("/bin/sh",), "python3 commands"),
            (("python2.7", "-c", ""), "python3 commands"),
            (("python3", "-i"), "option -i"),
            (("python3", "--version"), "option --version"),
            (("python3", "-c"), "needs an argument"),
            (("python3", "-Wx", "-X"), "needs an argument"),
        ):
            with pytest.raises(InvalidRequestError, match=text):
                await guest.run(*argv, preloaded=True)
        with pytest.raises(InvalidRequestError, match="terminal"):
            await guest.run("python3", "-c", "", preloaded=True, tty=TerminalSize())
        done = await guest.run("python3", "-c", "", preloaded=True, cwd=PurePosixPath("/no/such"))
        assert (done.status.code, done.status.message) == (126, "working directory: No such file or directory")
        assert await same(guest, "python3", "-c", "print(1)") == b"1\n"


async def test_forks_share_no_state(open_guest: OpenGuest) -> None:
    code = (
        "import random, tempfile, uuid, json, os, sys\n"
        "assert not hasattr(json, 'mine') and 'MINE' not in os.environ and 'wave' not in sys.modules\n"
        "json.mine = 1; os.environ['MINE'] = '1'; import wave\n"
        "print(random.random(), next(tempfile._get_candidate_names()), uuid.uuid4(), os.urandom(4).hex())\n"
    )
    async with open_guest(launcher=PRELOAD) as guest:
        seen = [(await guest.run("python3", "-c", code, preloaded=True)).out.split() for _ in range(4)]
        for values in zip(*seen, strict=True):
            assert len(set(values)) == 4, values
        assert all(len(values) == 4 for values in seen)


@HERE
async def test_numpy_is_seeded_anew(open_guest: OpenGuest) -> None:
    code = "import numpy.random; print(numpy.random.rand(), numpy.random.default_rng().random())"
    async with open_guest(launcher=preload_launcher(["numpy"])) as guest:
        if (await guest.run("python3", "-c", "import numpy")).status.code:
            pytest.skip("the interpreter inside has no numpy")
        seen = [(await guest.run("python3", "-c", code, preloaded=True)).out for _ in range(3)]
        assert len(set(seen)) == 3
        assert all(len(line.split()) == 2 for line in seen)


async def test_the_modules_are_there_and_others_start_cold(open_guest: OpenGuest) -> None:
    code = "import sys; print('asyncio' in sys.modules)"
    async with open_guest(launcher=PRELOAD) as guest:
        assert (await guest.run("python3", "-c", code, preloaded=True)).out == b"True\n"
        assert (await guest.run("python3", "-c", code)).out == b"False\n"
        assert (await guest.sh("echo shell")).out == b"shell\n"


async def test_input_and_output(open_guest: OpenGuest) -> None:
    data = os.urandom(3_000_000)
    async with open_guest(launcher=PRELOAD) as guest:
        code = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
        done = await guest.run("python3", "-c", code, data=data, preloaded=True)
        assert (done.out == data, done.err, done.status.code) == (True, b"", 0)
        done = await guest.run(
            "python3", "-c", "for _ in range(100): print('x' * 1000)", max_output=5000, preloaded=True
        )
        assert (len(done.out), done.status.truncated) == (5000, True)
        code = "import sys; print(len(sys.argv), sum(map(len, sys.argv)))"
        done = await guest.run("python3", "-c", code, "x" * 1_000_000, *["y"] * 20_000, preloaded=True)
        assert done.out == b"20002 1020002\n"


async def test_a_reader_that_went_away(open_guest: OpenGuest) -> None:
    code = "import os, subprocess, sys\nr, w = os.pipe()\nos.dup2(w, 1); os.close(w); os.close(r)\nprint('lost')"
    async with open_guest(launcher=PRELOAD) as guest:
        await same(guest, "python3", "-c", code)


async def test_many_at_once(open_guest: OpenGuest) -> None:
    async with open_guest(launcher=PRELOAD) as guest:
        seen: list[bytes] = []

        async def one(number: int) -> None:
            # Most end before the agent has heard their pid.
            done = await guest.run(
                "python3", "-c", f"import os; os.write(1, b'{number} '); os._exit(3)", preloaded=True
            )
            assert done.status.code == 3
            seen.append(done.out)

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(one, number)
        assert sorted(map(int, seen)) == list(range(40))


async def test_timeout_kill_and_signals(open_guest: OpenGuest) -> None:
    async with open_guest(launcher=PRELOAD) as guest:
        done = await guest.run("python3", "-c", "while True: pass", preloaded=True, timeout=SECOND * 0.3)
        assert (done.status.signal, done.status.timed_out) == (signal.SIGKILL, True)
        process = await guest.start(
            "python3", "-c", "import time; print(1, flush=True); time.sleep(60)", preloaded=True
        )
        assert await process.stdout.receive() == b"1\n"
        await process.signal(signal.SIGTERM)
        assert (await process.wait()).signal == signal.SIGTERM
        # The launcher is not in the way, and lives on.
        assert (await guest.run("python3", "-c", "print(2)", preloaded=True)).out == b"2\n"


@HERE
@pytest.mark.parametrize("how", ["fork", "setsid", "subprocess", "orphan"])
async def test_the_whole_tree_is_killed(open_guest: OpenGuest, how: str) -> None:
    here = mark()
    sleep = f"os.execvp('sleep', ['sleep', '{here}'])"
    code = {
        "fork": f"import os, time\nif os.fork() == 0: {sleep}\n",
        "setsid": f"import os, time\nif os.fork() == 0:\n  os.setsid()\n  {sleep}\n",
        "subprocess": f"import os, time, subprocess\nsubprocess.Popen(['sleep', '{here}'], start_new_session=True)\n",
        # No exec afterwards: the kernel still shows the launcher's environment, unless that was corrected.
        "orphan": f"import os, sys, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork(): os._exit(0)\n"
        f"  open('pid', 'w').write(str(os.getpid())); time.sleep({here})\n",
    }[how]
    async with open_guest(launcher=PRELOAD) as guest:
        other = await guest.start("sleep", "60")
        code += "print('up', flush=True); time.sleep(60)"
        process = await guest.start("python3", "-c", code, preloaded=True)
        assert await process.stdout.receive() == b"up\n"
        left = "kill -0 $(cat pid) && echo 1 || echo 0" if how == "orphan" else "echo 0"
        if how == "orphan":
            with anyio.fail_after(20):
                assert (await guest.sh("until kill -0 $(cat pid); do sleep 0.02; done")).status.code == 0
        else:
            await guest.until_alive(here, 2)
        await process.kill()
        assert (await guest.sh(left)).out == b"0\n"
        assert await guest.alive(here) == 0
        assert other.exchange.exit is None
        await other.kill()


async def test_arguments_are_shown(open_guest: OpenGuest) -> None:
    async with open_guest(launcher=PRELOAD) as guest:
        done = await guest.run("python3", "-c", "print(open('/proc/self/cmdline').read())", "word", preloaded=True)
        assert done.out == b"python3 -c print(open('/proc/self/cmdline').read()) word\0\n"


async def test_limits_for_programs(open_guest: OpenGuest) -> None:
    code = "from resource import *; print(getrlimit(RLIMIT_NOFILE), getrlimit(RLIMIT_CORE))"
    async with open_guest(launcher=PRELOAD, rlimits={7: (16, 16), 4: (0, 0)}) as guest:
        assert await same(guest, "python3", "-c", code) == b"(16, 16) (0, 0)\n"
        done = await guest.run("python3", "-c", "print(open('/proc/self/oom_score_adj').read())", preloaded=True)
        assert int(done.out) >= 500


async def test_the_launchers_socket_is_out_of_reach(open_guest: OpenGuest) -> None:
    code = (
        "import os\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    line = open(f'/proc/{pid}/cmdline').read()\n"
        "    if 'launcher.' + 'forks' in line:\n"
        "        print('found')\n"
        "        try: print(os.readlink(f'/proc/{pid}/fd/3'))\n"
        "        except PermissionError: print('hidden')\n"
    )
    async with open_guest(launcher=PRELOAD) as guest:
        if not guest.pid1 and os.geteuid() == 0:
            pytest.skip("root outside may do everything")
        assert (await guest.run("python3", "-c", code, preloaded=True)).out == b"found\nhidden\n"


async def test_without_a_launcher_nothing_is_preloaded(open_guest: OpenGuest) -> None:
    async with open_guest() as guest:
        with pytest.raises(InvalidRequestError, match="no preloaded interpreter"):
            await guest.run("python3", "-c", "", preloaded=True)


@pytest.mark.parametrize(
    ("modules", "text"),
    [
        (("json", "no_such_module_x"), "'no_such_module_x' can't be imported: ModuleNotFoundError"),
        (("antigravity_",), "'antigravity_' can't be imported"),
    ],
)
async def test_a_module_that_cannot_be_imported(open_guest: OpenGuest, modules: tuple[str, ...], text: str) -> None:
    async with open_guest(launcher=preload_launcher(modules)) as guest:
        for _ in range(2):  # the second time from a launcher of its own
            with pytest.raises(InvalidRequestError, match=text):
                await guest.run("python3", "-c", "", preloaded=True)
        assert (await guest.run("python3", "-c", "print(1)")).out == b"1\n"


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (LauncherConfig(("no-such-program",)), "can't be started: no-such-program: not found"),
        (LauncherConfig(("sh", "-c", "echo words >&2; exit 3")), r"before it was ready \(exit code 3\): words"),
        (LauncherConfig(("sleep", "60"), ready=SECOND * 0.3), r"not ready within 0\.3 s"),
        (worker("def main(serve, fail, arguments): fail(int(arguments[-1]), 'my reason')"), "my reason"),
        (worker("def main(serve, fail, arguments): 1 / 0"), "ZeroDivisionError"),
        (
            worker(
                "import threading, time\ndef main(serve, fail, arguments):\n"
                "  threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
                "  serve(int(arguments[-1]), None)"
            ),
            "more than one thread",
        ),
        (
            worker("import os\ndef main(s, f, arguments):\n  os.write(3, b'nonsense'); import time; time.sleep(60)"),
            "broke its protocol",
        ),
    ],
    ids=["missing", "dies", "late", "fails", "raises", "threads", "nonsense"],
)
@HERE
async def test_launchers_that_do_not_get_ready(open_guest: OpenGuest, config: LauncherConfig, text: str) -> None:
    settings = LauncherConfig(config.argv, config.env, everything=True, ready=config.ready)
    async with open_guest(launcher=settings) as guest:
        for _ in range(2):
            with pytest.raises(InvalidRequestError, match=text):
                await guest.run("x")


async def test_a_launcher_for_everything(open_guest: OpenGuest) -> None:
    async with open_guest(launcher=worker(), env={"A": "base"}) as guest:
        place = str(guest.workspace)
        done = await guest.run("any", "1", env={"A": "\udcff"})
        assert (done.out, done.err, done.status.code) == (
            f"['any', '1'] \udcff {place} {place}\n".encode("utf-8", "surrogateescape"),
            b"",
            7,
        )
        assert (await guest.run("big")).status.code == 44
        done = await guest.run("missing")
        assert (done.status.code, done.status.message) == (127, "missing: not found")
        done = await guest.run("raise")
        assert done.status.code == 1
        assert b"KeyError: 'mine'" in done.err
        assert (await guest.run("signal", "15")).status.signal == signal.SIGTERM
        for request in (
            ExecRequest(("x",), tty=TerminalSize()),
            ExecRequest(("x",), preloaded=True),
            ExecRequest(("second-thread",)),
        ):
            with pytest.raises(InvalidRequestError):
                await guest.session.exec(request)


async def test_a_launcher_that_died_is_replaced(open_guest: OpenGuest) -> None:
    code = "import os; print(os.getpid())"
    # Only that of this agent, which is the shell's parent: others run their launchers beside.
    mine = "grep -qsa 'launcher[.]forks' $d/cmdline && grep -qs \"^PPid:.$PPID$\" $d/status"
    kill = "for d in /proc/[0-9]*; do " + mine + " && kill -9 ${d#/proc/} && echo hit; done"
    async with open_guest(launcher=PRELOAD) as guest:
        assert (await guest.run("python3", "-c", code, preloaded=True)).status.code == 0
        for _ in range(3):
            hit = await guest.sh(kill)
            assert b"hit" in hit.out
            done = await guest.run("python3", "-c", code, preloaded=True)
            assert (done.status.code, done.err) == (0, b"")


async def test_cancelling_before_it_is_ready(open_guest: OpenGuest) -> None:
    text = "import time\ndef main(serve, fail, arguments):\n  time.sleep(1)\n  serve(int(arguments[-1]), run)\n"
    text += "def run(*a):\n  open('ran', 'w'); return 0"
    async with open_guest(launcher=worker(text, everything=False)) as guest:
        with anyio.move_on_after(0.3) as scope:
            await guest.run("x", preloaded=True)
        assert scope.cancelled_caught
        assert (await guest.sh("sleep 1.5; ls ran")).status.code != 0


async def test_the_sandbox_stops_with_its_launcher(open_guest: OpenGuest) -> None:
    async with open_guest(launcher=PRELOAD) as guest:
        process = await guest.start("python3", "-c", "import time; time.sleep(60)", preloaded=True)
        with anyio.fail_after(20):
            await guest.session.shutdown(SECOND)
        assert (await process.wait()).signal == signal.SIGTERM


async def test_it_starts_when_the_host_says_so(open_guest: OpenGuest) -> None:
    text = "def main(serve, fail, arguments):\n"
    text += "  open(arguments[0] + '/ran', 'w').close(); serve(int(arguments[-1]), lambda *a: 5)"
    async with open_guest() as probe:
        place = str(probe.workspace)
    config = LauncherConfig(("python3", "-c", launcher_text(text), place))
    async with open_guest(launcher=config) as guest:
        # Nothing runs before the host has looked at the walls and filled the cgroup.
        assert (await guest.sh("sleep 0.3; ls ran")).status.code != 0
        guest.session.launch()
        guest.session.launch()
        assert (await guest.sh("until test -e ran; do sleep 0.02; done")).status.code == 0
        assert (await guest.run("x", preloaded=True)).status.code == 5
