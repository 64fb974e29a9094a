"""output.*: what programs write, exactly, in order, and not more than allowed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import collect, read_all, read_until, soon, stretched

if TYPE_CHECKING:
    from jubako.testing.conformance._guest import Guest

__all__ = ["OutputChecks"]

_MIB = 1024 * 1024
# Position-dependent bytes, so that a lost or swapped piece shows: 16 hexadecimal digits a line.
_PATTERN: Final = "import sys; w = sys.stdout.buffer.write; n = int(sys.argv[1])\nfor i in range(n): w(b'%015x\\n' % i)"

_ZEROS: Final = """
import sys
for stream, size in zip((sys.stdout.buffer, sys.stderr.buffer), map(int, sys.argv[1:3])):
    while size:
        size -= stream.write(bytes(min(size, 65536)))
    stream.flush()
if sys.argv[3] != "0":
    sys.exit(int(sys.argv[3]))
"""
"""Writes zeros to both streams: how many to the first, how many to the second, and the exit code."""
_PIECES: Final = """
import sys, time
for piece in (b"\\303", b"\\244\\360\\237", b"\\230\\200\\n"):
    sys.stdout.buffer.write(piece)
    sys.stdout.flush()
    time.sleep(0.05)
"""
_TWO_PARTS: Final = """
import sys
print("first", end="", flush=True)
sys.stdin.readline()
print("second", end="")
"""
_CLOSES: Final = """
import os, sys
print("bye", flush=True)
os.close(1)
os.close(2)
sys.stdin.readline()
os._exit(4)
"""


def _pattern(lines: int) -> bytes:
    return b"".join(b"%015x\n" % number for number in range(lines))


class OutputChecks(Checks):
    """What programs write."""

    @check("output.binary")
    async def test_output_binary(self, guest: Guest) -> None:
        """Output is bytes: all 256 values, zeros and line ends unchanged, on both streams."""
        data = bytes(range(256)) * 4 + b"\r\n\n\r\0\0"
        code = (
            "import sys; data = bytes(range(256)) * 4 + b'\\r\\n\\n\\r\\0\\0'\n"
            "sys.stdout.buffer.write(data); sys.stderr.buffer.write(data[::-1])"
        )
        done = await guest.py(code)
        assert done.stdout == data
        assert done.stderr == data[::-1]

    @check("output.utf8-split")
    async def test_output_utf8_split(self, guest: Guest) -> None:
        """Characters that arrive in pieces come out whole."""
        assert (await guest.py(_PIECES)).stdout == "ä😀\n".encode()

    @check("output.both-streams")
    async def test_output_both_streams(self, guest: Guest) -> None:
        """Standard output and standard error stay apart."""
        code = "import sys\nfor word in ('', ' again'): print('out' + word); print('err' + word, file=sys.stderr)"
        done = await guest.py(code)
        assert done.stdout == b"out\nout again\n"
        assert done.stderr == b"err\nerr again\n"

    @check("output.large")
    async def test_output_large(self, guest: Guest) -> None:
        """Eight megabytes below the limit arrive byte by byte."""
        done = await guest.py(_PATTERN, str(8 * _MIB // 16))
        assert len(done.stdout) == 8 * _MIB
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(_pattern(8 * _MIB // 16)).digest()
        assert not done.status.truncated

    @check("output.limit")
    async def test_output_limit(self, guest: Guest) -> None:
        """Over the limit exactly its first bytes are kept, the status says so, and the program finishes."""
        limit = 100_000
        done = await guest.py(
            _PATTERN + "\nsys.stdout.flush(); open('finished', 'w').close(); sys.exit(3)", "65536", max_output=limit
        )
        assert len(done.stdout) == limit
        assert done.stdout == _pattern(65536)[:limit]
        assert done.status.truncated
        assert "resource.output" in done.status.limits
        assert done.status.code == 3
        assert await guest.ls() == ["finished"]

    @check("output.limit-both")
    async def test_output_limit_both(self, guest: Guest) -> None:
        """The limit counts both streams together."""
        done = await guest.py(_ZEROS, "50000", "50000", "0", max_output=64_000)
        assert len(done.stdout) + len(done.stderr) == 64_000
        assert done.status.truncated
        assert done.status.code == 0

    @check("output.limit-exact")
    async def test_output_limit_exact(self, guest: Guest) -> None:
        """Output of exactly the limit is whole and not called truncated."""
        done = await guest.py(_ZEROS, "65536", "0", "0", max_output=65536)
        assert len(done.stdout) == 65536
        assert not done.status.truncated
        assert not done.status.limits

    @check("output.hundred-megabytes", slow=True, timeout=60)
    async def test_output_hundred_megabytes(self, guest: Guest) -> None:
        """A flood of 100 MB under a limit of 1 MiB is drained to its end."""
        done = await guest.py(_ZEROS, "100000000", "4", "5", max_output=_MIB)
        assert len(done.stdout) + len(done.stderr) == _MIB
        assert done.status.truncated
        assert done.status.code == 5

    @check("output.streams")
    async def test_output_streams(self, guest: Guest) -> None:
        """Output arrives while the program runs, also without a line end."""
        process = await guest.start(*guest.python(_TWO_PARTS), stdin=True)
        assert await read_until(process.stdout, b"first") == b"first"
        assert process.stdin is not None
        await process.stdin.send(b"\n")
        assert await read_until(process.stdout, b"second") == b"second"
        assert (await process.wait()).code == 0

    @check("output.end")
    async def test_output_end(self, guest: Guest) -> None:
        """Both streams end when the program has, and stay ended."""
        process = await guest.start(*guest.python("pass"))
        for stream in (process.stdout, process.stderr):
            for _ in range(2):
                with soon(), pytest.raises(anyio.EndOfStream):
                    await stream.receive()

    @check("output.end-early")
    async def test_output_end_early(self, guest: Guest) -> None:
        """A program may close its output and go on; its status comes when it ends."""
        process = await guest.start(*guest.python(_CLOSES), stdin=True)
        with soon():
            assert await read_all(process.stdout) == b"bye\n"
        assert process.stdin is not None
        await process.stdin.send(b"\n")
        assert (await process.wait()).code == 4

    @check("output.after-exit")
    async def test_output_after_exit(self, guest: Guest) -> None:
        """What a program wrote can be read after it ended."""
        process = await guest.start(*guest.python("import sys; print('kept'); print('too', file=sys.stderr)"))
        assert (await process.wait()).code == 0
        done = await collect(process)
        assert (done.stdout, done.stderr) == (b"kept\n", b"too\n")

    @check("output.chunk-size")
    async def test_output_chunk_size(self, guest: Guest) -> None:
        """A receive gives at most as many bytes as were asked for, and loses none."""
        process = await guest.start(*guest.python("print('abcdefghij', end='')"))
        seen: list[bytes] = []
        with pytest.raises(anyio.EndOfStream):
            while True:
                seen.append(await process.stdout.receive(3))
        assert all(0 < len(piece) <= 3 for piece in seen)
        assert b"".join(seen) == b"abcdefghij"

    @check("output.unread")
    async def test_output_unread(self, guest: Guest) -> None:
        """A program whose output nobody reads holds up neither other programs nor files."""
        process = await guest.start(
            *guest.python("import sys\nwhile True: sys.stdout.buffer.write(bytes(65536))"), max_output=1024 * _MIB
        )
        await read_until(process.stdout, b"\0")
        await guest.works()
        await guest.files.write(guest.workspace / "file", b"x" * 100_000)
        assert len(await guest.files.read(guest.workspace / "file", limit=_MIB)) == 100_000
        await process.kill()
        assert (await process.wait()).signal == 9

    @check("output.backpressure")
    async def test_output_backpressure(self, guest: Guest) -> None:
        """A program whose output nobody reads is held up before it has written much."""
        code = _ZEROS + "\nopen('finished', 'w').close()"
        process = await guest.start(*guest.python(code, "67108864", "0", "0"), max_output=1024 * _MIB)
        with anyio.move_on_after(stretched(1)):
            await process.wait()
        assert await guest.ls() == [], "64 MiB were buffered that nobody reads"
        await process.kill()
