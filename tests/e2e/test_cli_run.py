"""``jubako run`` as a user starts it: a process of its own, real pipes, real terminal, real sandbox."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.driver("bwrap")

JUBAKO = (sys.executable, "-m", "jubako")


def on_process(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Choose the boundary that these tests are about; by itself the strongest of the machine is taken."""
    if arguments[0] != "run" or "--boundary" in arguments:
        return arguments
    return ("run", "--boundary", "process", *arguments[1:])


def jubako(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*JUBAKO, *on_process(arguments)], input=stdin, capture_output=True, text=True, timeout=60, cwd=cwd, check=False
    )


def start(*arguments: str, **options: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*JUBAKO, *on_process(arguments)], **options)  # type: ignore[call-overload,no-any-return]  # file numbers


@pytest.fixture
def nothing_left(state_home: Path) -> Path:
    """Return the run directory, which must be empty afterwards."""
    return state_home / "run"


def test_code_streams_and_status() -> None:
    result = jubako(
        "run", "-c", "import sys; print(input()); print('e', file=sys.stderr); sys.exit(7)", stdin="hello\n"
    )
    assert (result.stdout, result.stderr, result.returncode) == ("hello\n", "e\n", 7)


def test_file_with_arguments(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("import sys; print(sys.argv[1:], __file__)\nraise ValueError('wrong')")
    result = jubako("run", "job.py", "a", "--b", "--", "c", cwd=tmp_path)
    assert result.stdout == "['a', '--b', '--', 'c'] /workspace/job.py\n"
    assert 'File "/workspace/job.py", line 2' in result.stderr
    assert result.stderr.endswith("ValueError: wrong\n")
    assert result.returncode == 1


def test_command_and_language() -> None:
    assert jubako("run", "--", "sh", "-c", "echo $0 $1", "--", "x").stdout == "-- x\n"
    assert jubako("run", "--language", "bash", "-c", "echo $((6*7)) $0", "name").stdout == "42 name\n"


def test_environment_directory_and_uploads(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "leaf").write_text("leaf")
    (tree / "link").symlink_to("/etc/shadow")
    (tree / "tool").write_text("#!/bin/sh\necho tool")
    (tree / "tool").chmod(0o755)
    result = jubako(
        "run", "--env", "A=b=c", "--cwd", "/workspace/in", "--file", f"{tmp_path}/one:in/1", "--file", str(tree),
        "--", "sh", "-c", "echo $A; pwd; cat 1; find ../tree | sort; ../tree/tool",
    )  # fmt: skip
    expected = "b=c\n/workspace/in\n1../tree\n../tree/sub\n../tree/sub/leaf\n../tree/tool\ntool\n"
    assert (result.stdout, result.stderr) == (expected, "")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--", "no-such-program"], 127, "no-such-program"),
        (["--", "/etc/passwd"], 126, "/etc/passwd"),
        (["--timeout", "300ms", "--", "sleep", "60"], 124, "time.exec"),
        (["--", "sh", "-c", "kill -TERM $$"], 143, ""),
        (["--driver", "nobody", "-c", "1"], 2, "unknown-driver"),
        (["--name", "a b", "-c", "1"], 2, "invalid-request"),
    ],
)
def test_exit_statuses(arguments: list[str], status: int, told: str) -> None:
    result = jubako("run", *arguments)
    assert result.returncode == status
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_a_limit_that_kills_gives_137(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('schema_version = 1\n[output]\nmax_bytes = 4096\non_limit = "kill"\n')
    result = jubako("run", "--policy", str(policy), "-c", "while True: print('x' * 1000)")
    assert result.returncode == 137
    assert len(result.stdout) == 4096
    assert result.stderr == "jubako: resource.output: the program ran into this limit\n"


def test_a_policy_file_has_the_last_word_on_time(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("schema_version = 1\n[time]\nexec = 2\n")
    result = jubako("run", "--policy", str(policy), "--timeout", "5m", "-c", "1")
    assert result.returncode == 2
    assert "timeout is 300 s; the policy's time.exec is 2 s" in result.stderr
    assert jubako("run", "--timeout", "2h", "-c", "print(1)").stdout == "1\n"


def test_a_refused_policy_starts_nothing(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('schema_version = 1\n[data]\nlabels = ["pii"]\n')
    result = jubako("run", "--policy", str(policy), "-c", "print('ran')")
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith("jubako: policy-not-enforceable: ")
    assert "data.labels" in result.stderr
    assert jubako("explain", "--policy", str(policy)).returncode == 1


def test_json_holds_everything_and_the_status_is_the_programs() -> None:
    result = jubako("run", "--json", "-c", "import sys; print('o'); sys.exit(3)")
    document = json.loads(result.stdout)
    assert result.returncode == 3
    assert (document["stdout"], document["exit_code"], document["driver"]) == ("o\n", 3, "bwrap")
    assert document["card"].startswith("sha256:")
    failed = jubako("run", "--json", "--boundary", "vm", "-c", "1")
    assert json.loads(failed.stdout)["error"]["code"] == "unknown-driver"
    assert failed.stderr == ""


def test_output_comes_while_the_program_runs() -> None:
    with start("run", "-c", "print('first', flush=True); input(); print('second')",
               stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stdout.readline() == b"second\n"
        assert process.wait(30) == 0


def test_a_hundred_megabytes_through_a_pipe_are_cut_at_the_limit() -> None:
    code = "import sys; [sys.stdout.buffer.write(b'x' * 1_000_000) for _ in range(100)]"
    result = jubako("run", "-c", code)
    assert (result.returncode, len(result.stdout)) == (0, 10 * 1024 * 1024)
    assert "resource.output" in result.stderr


def test_a_closed_reader_ends_the_run(nothing_left: Path) -> None:
    with start("run", "-c", "while True: print('x' * 1000)", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1000)
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""
    assert list(nothing_left.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_the_run_and_clean_up(number: signal.Signals, status: int, nothing_left: Path) -> None:
    with start("run", "-c", "print('up', flush=True); import time; time.sleep(60)",
               stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(30) == status
        assert process.stderr.read().strip() == b""
    assert list(nothing_left.iterdir()) == []


def terminal(*arguments: str) -> bytes:
    """Return what a user's terminal shows."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execv(JUBAKO[0], [*JUBAKO, *on_process(arguments)])
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and select.select([descriptor], [], [], 60)[0]:
        try:
            data = os.read(descriptor, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.waitpid(pid, 0)
    os.close(descriptor)
    return shown


def test_a_terminal_obeys_code_inside_only_with_raw() -> None:
    code = "print('\\x1b]0;owned\\x07\\x1b[2Jend')"
    assert terminal("run", "-c", code) == b"\\e]0;owned\\x07\\e[2Jend\r\n"
    assert terminal("run", "--raw", "-c", code) == b"\x1b]0;owned\x07\x1b[2Jend\r\n"


def test_preloaded_modules(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("import sys; print({'decimal', 'csv'} <= set(sys.modules), sys.argv[1:])")
    result = jubako("run", "--preload", "decimal, csv", "job.py", "a", cwd=tmp_path)
    assert (result.stdout, result.returncode) == ("True ['a']\n", 0), result.stderr
    result = jubako("run", "--preload", "decimal", "--", "sh", "-c", "echo shell")
    assert (result.stdout, result.returncode) == ("shell\n", 0), result.stderr
