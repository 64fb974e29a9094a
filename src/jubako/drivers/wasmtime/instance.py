"""One sandbox of the WebAssembly boundary: the jail's instance, without what programs without processes can't have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from jubako.errors import InvalidRequestError
from jubako.jail.bubblewrap import JailedInstance

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream

    from jubako.boundary.contract import ExecRequest, ExitStatus, Process, TerminalSize, Usage

__all__ = ["WasmInstance"]


class WasmInstance(JailedInstance):
    """A sandbox whose programs are WebAssembly. Made by ``WasmtimeDriver.create``; not by callers."""

    async def exec(self, request: ExecRequest) -> Process:
        """Start a program. Raises InvalidRequestError for a terminal, besides what every instance raises."""
        return _WasmProcess(await super().exec(request))

    async def connect(self, port: int) -> ByteStream:
        """Raise InvalidRequestError: nothing inside can listen."""
        self._live("connect")
        _lacking("ports", f"nothing inside can listen on port {port}")

    async def usage(self) -> Usage:
        """Return what was used; programs are counted, not the threads that the worker needs for them."""
        seen = await super().usage()
        return replace(seen, processes=(await self._live("usage").usage()).processes)


class _WasmProcess:
    """A program that can be killed, and that knows no other signal."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def id(self) -> str:
        return self._process.id

    @property
    def stdin(self) -> ByteSendStream | None:
        return self._process.stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        return self._process.stdout

    @property
    def stderr(self) -> ByteReceiveStream:
        return self._process.stderr

    async def wait(self) -> ExitStatus:
        return await self._process.wait()

    async def signal(self, number: int) -> None:
        _lacking("signals", f"signal {number} means nothing to WebAssembly", hint="kill() ends the program")

    async def kill(self) -> None:
        await self._process.kill()

    async def resize(self, size: TerminalSize) -> None:
        await self._process.resize(size)


def _lacking(feature: str, text: str, hint: str = "use a boundary that has it: jubako doctor") -> NoReturn:
    msg = f"the WebAssembly boundary has no {feature}: {text}"
    raise InvalidRequestError(msg, hint=hint, details={"feature": feature})
