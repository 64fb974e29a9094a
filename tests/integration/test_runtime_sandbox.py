"""The asynchronous API over the real process boundary."""

from __future__ import annotations

import signal
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import anyio
import pytest

from jubako import AsyncSandbox, FileKind, Runtime, TerminalSize, WatchKind
from jubako.errors import (
    CommandFailedError,
    ExecTimeoutError,
    FileTooLargeError,
    GuestConnectionError,
    GuestFileExistsError,
    GuestFileNotFoundError,
    InvalidPolicyError,
    InvalidRequestError,
    OutputLimitError,
    SandboxStateError,
)
from jubako.runtime.streams import LINE_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.driver("bwrap")]


@pytest.fixture
async def box() -> AsyncIterator[AsyncSandbox]:
    async with AsyncSandbox(boundary="process") as made:
        yield made


async def test_run_returns_everything_about_it(box: AsyncSandbox) -> None:
    result = await box.run("import sys; print(6 * 7); print('no', file=sys.stderr); sys.exit(3)")
    assert (result.stdout, result.stderr, result.exit_code, result.signal) == ("42\n", "no\n", 3, None)
    assert (result.ok, result.timed_out, result.truncated, result.oom) == (False, False, False, False)
    assert result.limit_hits == ()
    assert result.usage is not None
    assert 0 < result.duration.total_seconds() < 60
    assert result.shell_status == 3


async def test_run_passes_input_environment_and_directory(box: AsyncSandbox) -> None:
    await box.files.mkdir("sub")
    code = "import os, sys; print(os.getcwd(), os.environ['GREETING'], sys.stdin.read())"
    result = await box.run(code, env={"GREETING": "ünï"}, cwd="/workspace/sub", stdin="héllo")
    assert result.stdout == "/workspace/sub ünï héllo\n"
    assert (await box.run("import sys; print(repr(sys.stdin.read()))")).stdout == "''\n"


async def test_each_run_is_a_new_program_and_files_stay(box: AsyncSandbox) -> None:
    await box.run("x = 1; open('kept', 'w').write('yes')")
    result = await box.run("print(open('kept').read()); print('x' in globals())")
    assert result.stdout == "yes\nFalse\n"


async def test_languages(box: AsyncSandbox) -> None:
    assert (await box.run("for i in 1 2; do echo $((i * 21)); done", language="bash")).stdout == "21\n42\n"
    with pytest.raises(InvalidRequestError) as caught:
        await box.run("", language="cobol")
    assert caught.value.hint == "known: python, bash, node, js, javascript"


async def test_node_runs_or_says_what_is_there(box: AsyncSandbox) -> None:
    if (await box.run("command -v node", language="bash")).ok:
        assert (await box.run("console.log(6 * 7)", language="node")).stdout == "42\n"
        code = f"/*{'x' * 200_000}*/ const f = 1, path = require('path'); console.log(path.sep, process.argv.length)"
        assert (await box.run(code, language="node")).stdout == "/ 1\n"
    else:
        with pytest.raises(InvalidRequestError, match="there is no node inside"):
            await box.run("console.log(6 * 7)", language="node")


async def test_absent_interpreter_names_the_present_ones(box: AsyncSandbox) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await box.run("print(1)", env={"PATH": "/nowhere"})
    assert caught.value.details["language"] == "python"
    assert "python3" in caught.value.message
    assert caught.value.hint.startswith("languages present: python, bash")


async def test_code_longer_than_an_argument_may_be(box: AsyncSandbox) -> None:
    filler = "#" * 300_000
    code = f"{filler}\nimport sys\nprint(__name__, sys.argv, 'helper' in sys.modules)\nimport helper\n"
    await box.files.write("helper.py", "print('imported from the workspace')")
    result = await box.run(code)
    assert result.stdout == "__main__ ['-c'] False\nimported from the workspace\n"
    failed = await box.run(f"{filler}\ndef inner():\n    raise ValueError('wrong')\ninner()\n")
    assert "line 3, in inner" in failed.stderr
    assert "raise ValueError('wrong')" in failed.stderr
    assert failed.exit_code == 1
    big = await box.run(f"# {filler}\necho $((6 * 7))", language="bash")
    assert big.stdout == "42\n"
    assert await box.files.list("/tmp") == []  # the code's own files are gone


async def test_both_streams_are_read_at_once(box: AsyncSandbox) -> None:
    code = "import sys\nfor i in range(200):\n    sys.stdout.write('o' * 5000)\n    sys.stderr.write('e' * 5000)"
    result = await box.run(code)
    assert (len(result.stdout_bytes), len(result.stderr_bytes)) == (1_000_000, 1_000_000)
    assert set(result.stdout) == {"o"}


async def test_bytes_that_are_not_text(box: AsyncSandbox) -> None:
    result = await box.run("import sys; sys.stdout.buffer.write(b'a\\xff\\x00b')")
    assert result.stdout_bytes == b"a\xff\x00b"
    assert result.stdout == "a\ufffd\0b"


async def test_timeout_is_a_result_or_with_check_an_error(box: AsyncSandbox) -> None:
    code = "import time; print('started', flush=True); time.sleep(60)"
    result = await box.run(code, timeout=0.5)
    assert (result.timed_out, result.ok, result.stdout, result.shell_status) == (True, False, "started\n", 124)
    assert result.limit_hits == ("time.exec",)
    with pytest.raises(ExecTimeoutError) as caught:
        await box.run(code, timeout=0.3, check=True)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.exit_status == 124


async def test_check_turns_failure_into_an_error(box: AsyncSandbox) -> None:
    with pytest.raises(CommandFailedError) as caught:
        await box.run("import sys; print('out'); sys.exit('sorry')", check=True)
    assert caught.value.details["exit_code"] == 1
    assert caught.value.details["stderr"] == "sorry\n"
    with pytest.raises(CommandFailedError, match="signal 15"):
        await box.run("kill -TERM $$", language="bash", check=True)
    assert (await box.run("print(1)", check=True)).stdout == "1\n"


async def test_output_limit_cuts_and_says_so() -> None:
    async with AsyncSandbox(boundary="process", policy={"output": {"max_bytes": 4096}}) as box:
        result = await box.run("print('x' * 100_000)")
        assert (result.truncated, result.exit_code, len(result.stdout_bytes)) == (True, 0, 4096)
        assert result.limit_hits == ("resource.output",)
        with pytest.raises(OutputLimitError):
            await box.run("print('x' * 100_000)", check=True)


async def test_output_limit_kills_where_the_policy_wants_it() -> None:
    policy = {"output": {"max_bytes": 4096, "on_limit": "kill"}}
    async with AsyncSandbox(boundary="process", policy=policy) as box:
        result = await box.run("while True: print('x' * 1000)", timeout=30)
        assert (result.truncated, result.signal, result.timed_out) == (True, signal.SIGKILL, False)
        assert result.shell_status == 137


async def test_lines_come_while_the_program_runs(box: AsyncSandbox) -> None:
    code = "while read line; do echo got $line; done; echo bye >&2"
    process = await box.exec(["bash", "-c", code], stdin=True)
    await process.stdin.write("one\n")
    assert await process.stdout.readline() == "got one\n"
    await process.stdin.write(b"two\nthree\n")
    await process.stdin.aclose()
    assert [line async for line in process.stdout] == ["got two\n", "got three\n"]
    assert await process.stdout.readline() == ""
    assert await process.stderr.read() == "bye\n"
    assert (await process.wait()).code == 0


async def test_reading_one_stream_does_not_block_on_the_other(box: AsyncSandbox) -> None:
    code = "import sys\nfor i in range(300):\n    sys.stderr.write('e' * 10_000)\nprint('done')"
    process = await box.exec(["python3", "-c", code])
    status = await process.wait()
    assert status.code == 0
    assert await process.stdout.read() == "done\n"
    assert len(await process.stderr.read_bytes()) == 3_000_000


async def test_long_lines_come_in_bounded_pieces_and_odd_bytes_as_replacements(box: AsyncSandbox) -> None:
    code = "import sys; w = sys.stdout.buffer.write; w('é'.encode() * 700_000); w(b'\\nx\\xffy\\nlast')"
    process = await box.exec(["python3", "-c", code])
    lines = [line async for line in process.stdout]
    assert len(lines[0].encode()) <= LINE_LIMIT + 4
    assert "".join(lines) == "é" * 700_000 + "\nx\ufffdy\nlast"
    assert lines[-2:] == ["x\ufffdy\n", "last"]


async def test_missing_executable_is_a_status(box: AsyncSandbox) -> None:
    process = await box.exec(["no-such-program"])
    status = await process.wait()
    assert status.code == 127
    assert "no-such-program" in status.message
    result = await (await box.exec(["/etc/passwd"])).result()
    assert result.exit_code == 126


async def test_signal_kill_and_context_manager(box: AsyncSandbox) -> None:
    process = await box.exec(
        ["bash", "-c", "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done"]
    )
    assert await process.stdout.readline() == "ready\n"
    await process.signal(signal.SIGTERM)
    assert await process.stdout.read() == "caught\n"
    assert (await process.wait()).code == 7
    async with await box.exec(["sleep", "60"]) as sleeper:
        pass
    assert (await sleeper.wait()).signal == signal.SIGKILL
    await sleeper.kill()


async def test_terminal_and_resize(box: AsyncSandbox) -> None:
    script = "stty size; read x; stty size; test -t 2 && echo terminal"
    process = await box.exec(["bash", "-c", script], tty=TerminalSize(30, 100))
    assert await process.stdout.readline() == "30 100\r\n"
    await process.resize(50, 120)
    await process.stdin.write("\n")
    assert (await process.stdout.read()).replace("\r\n", "\n").endswith("50 120\nterminal\n")
    with pytest.raises(InvalidRequestError):
        await process.resize(0, 10)
    plain = await box.exec(["true"])
    with pytest.raises(SandboxStateError):
        await plain.resize(10, 10)
    with pytest.raises(SandboxStateError, match="without an open input"):
        _ = plain.stdin


async def test_cancelling_a_run_ends_the_program(box: AsyncSandbox) -> None:
    with anyio.move_on_after(0.5) as scope:
        await box.run("import time\nwhile True: open('alive', 'w').write(str(time.time())); time.sleep(0.01)")
    assert scope.cancelled_caught
    before = await box.files.read_text("alive")
    await anyio.sleep(0.2)
    assert await box.files.read_text("alive") == before
    assert (await box.run("print(1)")).ok


async def test_files_there_and_back(box: AsyncSandbox) -> None:
    files = box.files
    data = bytes(range(256)) * 5000
    await files.write("deep/er/data.bin", data)
    assert await files.read("deep/er/data.bin") == data
    assert b"".join([piece async for piece in files.stream("deep/er/data.bin")]) == data
    await files.write(PurePosixPath("note.txt"), "grüße", mode=0o600)
    assert await files.read_text("/workspace/note.txt") == "grüße"
    entry = await files.stat("note.txt")
    assert (entry.kind, entry.size, entry.mode & 0o777) == (FileKind.FILE, 7, 0o600)
    assert [str(item.path) for item in await files.list(recursive=True)] == [
        "deep",
        "deep/er",
        "deep/er/data.bin",
        "note.txt",
    ] or [item.path.name for item in await files.list(recursive=True)] == ["deep", "er", "data.bin", "note.txt"]
    await files.chmod("note.txt", 0o640)
    await files.move("note.txt", "deep/note")
    assert not await files.exists("note.txt")
    assert (await files.stat("deep/note")).mode & 0o777 == 0o640
    await files.write("other", "x")
    with pytest.raises(GuestFileExistsError):
        await files.move("other", "deep/note", overwrite=False)
    await files.remove("deep", recursive=True)
    assert [item.path.name for item in await files.list()] == ["other"]


async def test_file_errors_are_also_the_languages_own(box: AsyncSandbox) -> None:
    with pytest.raises(GuestFileNotFoundError) as caught:
        await box.files.read("absent")
    assert isinstance(caught.value, FileNotFoundError)
    await box.files.write("big", b"x" * 2000)
    with pytest.raises(FileTooLargeError):
        await box.files.read("big", limit=1000)
    with pytest.raises(FileTooLargeError):
        await box.files.list("/usr/bin", limit=3)
    for path in ("", "a\0b", "x" * 5000):
        with pytest.raises(InvalidRequestError):
            await box.files.read(path)
    with pytest.raises(InvalidRequestError):
        await box.files.write("x", b"", mode=0o4755)


async def test_watch_sees_what_code_inside_does(box: AsyncSandbox) -> None:
    await box.files.mkdir("watched")
    seen: list[tuple[WatchKind, str]] = []
    async with anyio.create_task_group() as tasks:

        async def look() -> None:
            async with aclosing(box.files.watch("watched")) as events:
                async for event in events:
                    seen.append((event.kind, event.path.name))
                    if seen[-1] == (WatchKind.CREATED, "last"):
                        break
            tasks.cancel_scope.cancel()

        tasks.start_soon(look)
        with anyio.move_on_after(20):
            while True:
                await box.run("rm -f watched/*; touch watched/first watched/last", language="bash")
                await anyio.sleep(0.05)
    assert (WatchKind.CREATED, "first") in seen
    assert (WatchKind.CREATED, "last") in seen


async def test_ports(box: AsyncSandbox) -> None:
    server = (
        "import socket; s = socket.create_server(('127.0.0.1', 8000)); print('up', flush=True)\n"
        "c, _ = s.accept(); c.sendall(c.recv(100).upper()); c.close()"
    )
    process = await box.exec(["python3", "-c", server])
    assert await process.stdout.readline() == "up\n"
    async with await box.connect(8000) as connection:
        await connection.send(b"hello")
        assert await connection.receive() == b"HELLO"
        assert await connection.receive() == b""
    with pytest.raises(GuestConnectionError):
        await box.connect(8001)
    with pytest.raises(InvalidRequestError):
        await box.connect(0)


async def test_card_usage_and_identity(box: AsyncSandbox) -> None:
    card = box.card()
    assert card.boundary.driver == "bwrap"
    assert card.refusals == ()
    usage = await box.usage()
    assert usage.processes is None or usage.processes >= 1
    assert box.id
    assert str(box.state) == "running"


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": 301},
        {"timeout": float("nan")},
        {"max_output": 10**12},
        {"max_output": -1},
        {"tty": TerminalSize(0, 5)},
    ],
)
async def test_arguments_out_of_bounds_are_refused(box: AsyncSandbox, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        await box.exec(["true"], **arguments)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("argv", [[], "ls -l", ["a\0b"], [1], b"ls"])
async def test_programs_are_lists_of_strings(box: AsyncSandbox, argv: list[str]) -> None:
    with pytest.raises(InvalidRequestError):
        await box.exec(argv)


def test_wrong_construction_is_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidPolicyError, match=r"resources\.memory"):
        AsyncSandbox(boundary="process", policy={"resources": {"memory": "lots"}})
    with pytest.raises(InvalidRequestError, match="name"):
        AsyncSandbox(boundary="process", name="no spaces allowed")
    with pytest.raises(InvalidRequestError, match="ttl is 7200 s"):
        AsyncSandbox(boundary="process", ttl=7200)


async def test_use_before_start_says_how() -> None:
    box = AsyncSandbox(boundary="process")
    with pytest.raises(SandboxStateError, match="is not started"):
        await box.run("1")
    with pytest.raises(SandboxStateError) as caught:
        await box.start()
    assert "async with" in caught.value.hint
    await box.destroy()
    async with Runtime() as runtime, AsyncSandbox(boundary="process", runtime=runtime) as started:
        with pytest.raises(SandboxStateError, match="started before"):
            await started.start()


async def test_files_run_by_their_ending(box: AsyncSandbox) -> None:
    await box.files.write("in/job.py", "import sys; print(sys.argv, input())")
    await box.files.write("job.sh", "echo $0 $1; exit 3")
    result = await box.run_file("in/job.py", "a", "b c", stdin="typed")
    assert result.stdout == "['/workspace/in/job.py', 'a', 'b c'] typed\n"
    assert result.usage is not None
    assert (await box.run_file("/workspace/job.sh", "x")).stdout == "/workspace/job.sh x\n"
    with pytest.raises(CommandFailedError):
        await box.run_file("job.sh", check=True)
    await box.files.write("job", "print(6 * 7)")
    assert (await box.run_file("job", language="python")).stdout == "42\n"
    missing = await box.run_file("missing.py")
    assert missing.exit_code == 2
    for path, message in (
        ("job", "the name job doesn't say which language it is"),
        ("job.wasm", "job.wasm is a WebAssembly program: it needs the boundary wasm, not process"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            await box.run_file(path)


async def test_commands_for_exec(box: AsyncSandbox) -> None:
    assert box.command(code="1") == ("python3", "-c", "1")
    assert box.command(code="1", language="bash") == ("bash", "-c", "1")
    assert box.command(file="a/b.py") == ("python3", "/workspace/a/b.py")
    assert box.command(file="/tmp/x", language="bash") == ("bash", "/tmp/x")
    assert box.policy.files.workspace == "/workspace"
    assert box.preload == ()
    for given in ({}, {"code": "1", "file": "x.py"}):
        with pytest.raises(InvalidRequestError, match="either code or a file"):
            box.command(**given)


async def test_preloading_is_asked_for_and_refused_where_it_can_not_be(box: AsyncSandbox) -> None:
    with pytest.raises(InvalidRequestError, match="the sandbox has preloaded nothing"):
        await box.exec(["python3", "-c", "1"], preloaded=True)
    with pytest.raises(InvalidRequestError, match="preload is a list"):
        AsyncSandbox(boundary="process", preload="numpy")
    with pytest.raises(InvalidRequestError, match=r"preload\.0"):
        AsyncSandbox(boundary="process", preload=["numpy; import os"])


async def test_python_starts_as_a_fork_of_what_is_preloaded() -> None:
    async with AsyncSandbox(boundary="process", preload=["decimal"]) as box:
        assert box.preload == ("decimal",)
        seen = "import sys; print('decimal' in sys.modules, sys.argv)"
        assert (await box.run(seen)).stdout == "True ['-c']\n"
        assert (await box.run(f"{'#' * 300_000}\n{seen}")).stdout == "True ['-c']\n"
        await box.files.write("job.py", seen)
        assert (await box.run_file("job.py", "a")).stdout == "True ['/workspace/job.py', 'a']\n"
        for preloaded, first in ((True, "True"), (False, "False")):
            process = await box.exec(["python3", "-c", seen], preloaded=preloaded)
            assert (await process.result()).stdout.startswith(first)
        assert (await box.run("echo shell", language="bash")).stdout == "shell\n"


async def test_a_module_that_is_not_there_is_named() -> None:
    async with AsyncSandbox(boundary="process", preload=["no_such_module"]) as box:
        with pytest.raises(InvalidRequestError, match="module 'no_such_module' can't be imported: ModuleNotFoundError"):
            await box.run("print(1)")
        assert (await box.run("echo shell", language="bash")).stdout == "shell\n"
