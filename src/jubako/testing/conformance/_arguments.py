"""exec.*: arguments, environment and standard input, byte by byte."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from jubako.errors import InvalidRequestError
from jubako.policy import EnvironmentPolicy, Policy
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import collect, read_all, read_until, soon
from jubako.testing.conformance._programs import CAT

if TYPE_CHECKING:
    from jubako.testing.conformance._bench import MakeGuest
    from jubako.testing.conformance._guest import Guest

__all__ = ["ArgumentChecks"]

BASE_VARIABLES: Final = frozenset({
    "HOME", "HOSTNAME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "SHLVL",
    "TERM", "TMPDIR", "TZ", "USER", "_",
})  # fmt: skip
"""The variables that a sandbox may have by itself. Python's start-up settings begin with PYTHON, marks that
drivers find a program's descendants by with JUBAKO_EXEC."""

_ARGUMENTS: Final = """
import os, sys
for item in sys.argv[1:]:
    sys.stdout.buffer.write(os.fsencode(item) + bytes(1))
"""
_VARIABLES: Final = """
import os, sys
for name, value in os.environ.items():
    sys.stdout.buffer.write(os.fsencode(name + "=" + value) + bytes(1))
"""
_DIGEST = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"


def _variables(output: bytes) -> dict[bytes, bytes]:
    """Split what ``_VARIABLES`` printed."""
    found: dict[bytes, bytes] = {}
    for item in output.split(b"\0"):
        if item:
            name, _, value = item.partition(b"=")
            found[name] = value
    return found


class ArgumentChecks(Checks):
    """Arguments, environment and standard input."""

    @check("exec.argv-exact")
    async def test_exec_argv_exact(self, guest: Guest) -> None:
        """Arguments arrive as they are: empty, spaced, quoted, with line ends, Unicode, or like options."""
        arguments = (
            "",
            " ",
            "a  b",
            "'",
            '"',
            "\\",
            "$HOME",
            "`id`",
            "*",
            "-x",
            "--",
            "line\nend",
            "\t",
            "ünï 😀",
        )
        done = await guest.py(_ARGUMENTS, *arguments)
        assert done.stdout == b"".join(item.encode() + b"\0" for item in arguments)

    @check("exec.argv-bytes")
    async def test_exec_argv_bytes(self, guest: Guest) -> None:
        """An argument that is no text arrives as it is."""
        argument = os.fsdecode(b"raw\xff\xfe")
        assert (await guest.py(_ARGUMENTS, argument)).stdout == os.fsencode(argument) + b"\0"

    @check("exec.argv-many")
    async def test_exec_argv_many(self, guest: Guest) -> None:
        """200 KB of arguments arrive byte by byte."""
        arguments = tuple(f"{number:04d}-" + secrets.token_hex(48) for number in range(2000))
        done = await guest.py(_ARGUMENTS, *arguments)
        assert done.stdout == b"".join(item.encode() + b"\0" for item in arguments)

    @check("exec.argv-long")
    async def test_exec_argv_long(self, guest: Guest) -> None:
        """One argument of 100 KB arrives byte by byte."""
        argument = secrets.token_hex(50_000)
        done = await guest.py(_ARGUMENTS, argument)
        assert done.stdout == argument.encode() + b"\0"

    @check("exec.argv-too-long")
    async def test_exec_argv_too_long(self, guest: Guest) -> None:
        """An argument that is too long is refused clearly, or arrives whole; the sandbox goes on."""
        try:
            done = await guest.py("import sys; print(len(sys.argv[1]))", "x" * 4_000_000)
        except InvalidRequestError:
            pass
        else:
            assert done.status.code == 126 or done.text == "4000000"
            assert done.status.code == 0 or done.status.message, "the reason is missing"
        await guest.works()

    @check("exec.env-given")
    async def test_exec_env_given(self, guest: Guest) -> None:
        """Variables of a request arrive as they are: empty, with line ends, Unicode."""
        env = {"EMPTY": "", "LINES": "a\nb", "EQUAL": "a=b", "UNICODE": "ünï 😀", "_lower1": "x", "LONG": "v" * 60_000}
        seen = _variables((await guest.py(_VARIABLES, env=env)).stdout)
        for name, value in env.items():
            assert seen[name.encode()] == value.encode()

    @check("exec.env-base")
    async def test_exec_env_base(self, make_guest: MakeGuest) -> None:
        """Nothing is inherited from the host: a program sees the base set of variables only."""
        name, value = f"JUBAKO_CANARY_{secrets.token_hex(4)}", secrets.token_hex(8)
        os.environ[name] = value
        try:
            guest = await make_guest()
            seen = _variables((await guest.py(_VARIABLES)).stdout)
        finally:
            del os.environ[name]
        assert value.encode() not in b" ".join(seen.values())
        names = {item.decode() for item in seen}
        strange = {item for item in names - BASE_VARIABLES if not item.startswith(("PYTHON", "JUBAKO_EXEC"))}
        assert not strange, f"unexpected variables: {sorted(strange)}"
        assert names >= {"PATH", "HOME"}

    @check("exec.env-policy")
    async def test_exec_env_policy(self, make_guest: MakeGuest) -> None:
        """Variables of the policy are seen by every program; a request's own come before them."""
        guest = await make_guest(Policy(environment=EnvironmentPolicy(variables={"ONE": "policy", "TWO": "policy"})))
        code = "import os; print(os.environ['ONE'], os.environ['TWO'])"
        assert await guest.says(code) == "policy policy"
        assert await guest.says(code, env={"TWO": "request"}) == "policy request"

    @check("exec.env-override")
    async def test_exec_env_override(self, guest: Guest) -> None:
        """A request may replace a base variable, for that one program."""
        code = "import os; print(os.environ['HOME'])"
        assert await guest.says(code, env={"HOME": "/tmp"}) == "/tmp"
        assert await guest.says(code) != "/tmp"

    @check("exec.stdin-echo")
    async def test_exec_stdin_echo(self, guest: Guest) -> None:
        """What is written to standard input arrives, piece by piece and while the program runs."""
        process = await guest.echo()
        assert process.stdin is not None
        for piece in (b"one\n", bytes(range(256)) + b"\n", b"\0\0\n"):
            await process.stdin.send(piece)
            assert await read_until(process.stdout, piece) == piece
        await process.kill()

    @check("exec.stdin-eof")
    async def test_exec_stdin_eof(self, guest: Guest) -> None:
        """Closing standard input is the end of file for the program."""
        process = await guest.echo()
        assert process.stdin is not None
        await process.stdin.send(b"last words")
        await process.stdin.aclose()
        with soon():
            assert await read_all(process.stdout) == b"last words"
            assert (await process.wait()).code == 0

    @check("exec.stdin-none")
    async def test_exec_stdin_none(self, guest: Guest) -> None:
        """A program that was promised no input has none: end of file at once."""
        process = await guest.start(*guest.python(CAT))
        assert process.stdin is None
        with soon():
            assert await read_all(process.stdout) == b""
            assert (await process.wait()).code == 0

    @check("exec.stdin-large", timeout=15)
    async def test_exec_stdin_large(self, guest: Guest) -> None:
        """Eight megabytes of input reach a program that begins to read late."""
        data = secrets.token_bytes(1024) * 8192
        done = await guest.run(*guest.python("import time; time.sleep(0.2); " + _DIGEST), feed=data)
        assert done.text == hashlib.sha256(data).hexdigest()

    @check("exec.stdin-backpressure")
    async def test_exec_stdin_backpressure(self, guest: Guest) -> None:
        """Input for a program that doesn't read is not taken without end."""
        process = await guest.idle(stdin=True)
        assert process.stdin is not None
        sent = 0
        with anyio.move_on_after(1) as scope:
            while sent < 64 * 1024 * 1024:
                await process.stdin.send(bytes(65536))
                sent += 65536
        assert scope.cancelled_caught, f"{sent} bytes were taken that nobody reads"
        await guest.works()
        await process.kill()

    @check("exec.stdin-program-gone")
    async def test_exec_stdin_program_gone(self, guest: Guest) -> None:
        """Writing to a program that ended fails as a broken stream, and does not hang."""
        process = await guest.start(*guest.python("pass"), stdin=True)
        await collect(process)
        process = await guest.start(*guest.python("pass"), stdin=True)
        await process.wait()
        assert process.stdin is not None
        with soon(10), pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
            while True:
                await process.stdin.send(bytes(4096))
                await anyio.sleep(0.005)
