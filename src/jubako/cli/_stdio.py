"""Standard streams of the command, without ever blocking the event loop: limits are held there."""

from __future__ import annotations

import codecs
import os
from typing import TYPE_CHECKING, Final

import anyio

from jubako._lib.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Output", "read_input"]

_PIPE_BUF: Final = 4096
_CHUNK: Final = 65536


class Output:
    r"""One output of the command.

    On a terminal, what a terminal would obey is shown as escapes (``\x1b``), so that code inside can't
    rename the window, move the cursor over earlier lines or type answers; ``raw`` lets it all through.
    """

    def __init__(self, descriptor: int, *, raw: bool) -> None:
        self._descriptor = descriptor
        self._decoder = None if raw or not os.isatty(descriptor) else codecs.getincrementaldecoder("utf-8")("replace")
        self._waits = True

    async def write(self, data: bytes) -> None:
        """Write all of ``data``, as fast as the reader takes it. Raises BrokenPipeError when it is gone."""
        if self._decoder is not None:
            text = self._decoder.decode(data)
            data = printable(text, 10 * len(text) + 1, keep="\n\t\r").encode()
        left = memoryview(data)
        while left:
            if self._waits:
                try:
                    await anyio.wait_writable(self._descriptor)
                except PermissionError:
                    self._waits = False  # a regular file: never full in the way that pipes are
            # A ready pipe takes this much at once and a write of more would block.
            left = left[os.write(self._descriptor, left[: _PIPE_BUF if self._waits else _CHUNK]) :]


async def read_input(descriptor: int = 0) -> AsyncIterator[bytes]:
    """Yield what comes in on standard input, to its end."""
    waits = True
    while True:
        if waits:
            try:
                await anyio.wait_readable(descriptor)
            except PermissionError:
                waits = False  # a regular file is always ready
            except OSError:
                return  # it is closed
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            continue
        except OSError:
            return
        if not data:
            return
        yield data
