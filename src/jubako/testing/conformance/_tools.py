"""tools.*: programs call functions of the host, by ``jubako_tools`` in the sandbox's Python."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import anyio

from jubako.boundary.contract import Enforcement, Feature
from jubako.policy import Policy, SandboxSpec, ToolGrant
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import eventually

if TYPE_CHECKING:
    from jubako.boundary.contract import Driver, ProbeReport
    from jubako.testing.conformance._bench import MakeGuest
    from jubako.testing.conformance._guest import Guest

__all__ = ["ToolChecks"]

_GRANTED: Final = Policy(
    tools={name: ToolGrant(request_bytes=1024 * 1024) for name in ("echo", "fail", "large", "wait")}
)
_UNKNOWN: Final = b'{"error": {"code": "tool-denied", "message": "not granted: \xc3\xa9"}}'

_CALL: Final = """
import json, sys
import jubako_tools
try:
    print(json.dumps(jubako_tools.call(sys.argv[1], **json.loads(sys.argv[2])), sort_keys=True))
except jubako_tools.ToolError as error:
    print(error.code, ascii(error.message))
"""
_LARGE: Final = """
import jubako_tools
room = 1024 * 1024 - len('{"text":""}')
for size in (room, room + 1, 3 * room, 5):
    try:
        print(len(jubako_tools.call("echo", text="x" * size)["text"]) == size)
    except jubako_tools.ToolError as error:
        print(error.code)
print(len(jubako_tools.call("large", size=3000000)))
"""
_LATER: Final = """
import jubako_tools
for name in ("fail", "echo"):
    try:
        print(jubako_tools.call(name, a=1))
    except jubako_tools.ToolError as error:
        print(error.code)
"""
_ABSENT: Final = """
try:
    import jubako_tools
    print(jubako_tools.call("echo"))
except ImportError:
    print("none")
except jubako_tools.ToolError as error:
    print("none" if error.code == "tools-unavailable" else error.code)
"""


class _Link:
    """The host's side: answers what it is asked, and notes it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gate = anyio.Event()
        self.cancelled = 0

    async def call(self, tool: str, arguments: bytes) -> bytes:
        """Return the arguments, or what the function is named after."""
        self.calls.append(tool)
        if tool == "fail":
            raise RuntimeError("the link itself fails")
        if tool == "wait":
            try:
                await self.gate.wait()
            except anyio.get_cancelled_exc_class():
                self.cancelled += 1
                raise
        if tool == "large":
            return json.dumps({"result": "x" * json.loads(arguments)["size"]}).encode()
        if tool in _GRANTED.tools:
            return b'{"result":' + arguments + b"}"
        return _UNKNOWN


async def _call(guest: Guest, tool: str, **arguments: object) -> str:
    done = await guest.py(_CALL, tool, json.dumps(arguments))
    assert (done.status.code, done.stderr) == (0, b"")
    return done.text


class ToolChecks(Checks):
    """Host functions; what they may do is held on the host, and checked there."""

    @check("features.tools")
    async def test_features_tools(self, driver: Driver, report: ProbeReport) -> None:
        """The plan promises calls of host functions if and only if the driver declares them."""
        plan = driver.plan(SandboxSpec(policy=_GRANTED), report)
        levels = [item.level for item in plan.controls if item.control == "tool.calls"]
        assert levels == [Enforcement.ENFORCED if Feature.TOOLS in report.features else Enforcement.UNENFORCED]

    @check("tools.echo", needs=Feature.TOOLS)
    async def test_tools_echo(self, make_guest: MakeGuest) -> None:
        """A program calls a function of the host and gets its result, again and again."""
        link = _Link()
        guest = await make_guest(_GRANTED, tools=link)
        assert guest.level("tool.calls") is Enforcement.ENFORCED
        for number in (1, 2):
            value: dict[str, object] = {"a": number, "b": [None, True, 1.5, "text"], "c": {"d": {}}}
            assert json.loads(await _call(guest, "echo", **value)) == value
        assert link.calls == ["echo", "echo"]

    @check("tools.unicode", needs=Feature.TOOLS)
    async def test_tools_unicode(self, make_guest: MakeGuest) -> None:
        """Arguments and results are any Unicode text."""
        guest = await make_guest(_GRANTED, tools=_Link())
        value = {"text": '\u00e9\u4e2d\U0001f600\u0000\n"\\', "\u540d": 1}
        assert json.loads(await _call(guest, "echo", **value)) == value

    @check("tools.large", needs=Feature.TOOLS)
    async def test_tools_large(self, make_guest: MakeGuest) -> None:
        """Arguments over 1 MiB are refused by an error, and calls go on; results may be larger."""
        link = _Link()
        guest = await make_guest(_GRANTED, tools=link)
        done = await guest.py(_LARGE)
        refused = "tool-request-too-large"
        assert done.text.splitlines() == ["True", refused, refused, "True", "3000000"], done.stderr
        assert link.calls == ["echo", "echo", "large"]

    @check("tools.concurrent", needs=Feature.TOOLS)
    async def test_tools_concurrent(self, make_guest: MakeGuest) -> None:
        """Programs call at the same time: a call that takes long holds up no other."""
        link = _Link()
        guest = await make_guest(_GRANTED, tools=link)
        waiting: list[str] = []

        async def wait(number: int) -> None:
            waiting.append(await _call(guest, "wait", number=number))

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)

            async def begun() -> bool:
                return link.calls.count("wait") == 3

            await eventually(begun, "three calls run at once", within=20)
            assert await _call(guest, "echo", a=1) == '{"a": 1}'
            link.gate.set()
        assert sorted(waiting) == [f'{{"number": {number}}}' for number in range(3)]

    @check("tools.unknown", needs=Feature.TOOLS)
    async def test_tools_unknown(self, make_guest: MakeGuest) -> None:
        """What the host answers to a call that it does not grant reaches the program as an error."""
        guest = await make_guest(_GRANTED, tools=_Link())
        assert await _call(guest, "format_disk") == r"tool-denied 'not granted: \xe9'"
        assert await _call(guest, "echo") == "{}"

    @check("tools.failing-link", needs=Feature.TOOLS)
    async def test_tools_failing_link(self, make_guest: MakeGuest) -> None:
        """A call that fails on the host's side is an error of that call alone."""
        guest = await make_guest(_GRANTED, tools=_Link())
        assert (await guest.py(_LATER)).text.splitlines() == ["tool-failed", "{'a': 1}"]

    @check("tools.killed", needs=Feature.TOOLS)
    async def test_tools_killed(self, make_guest: MakeGuest) -> None:
        """The call of a program that is killed is cancelled on the host, and others can call."""
        link = _Link()
        guest = await make_guest(_GRANTED, tools=link)
        process = await guest.start(*guest.python("import jubako_tools; jubako_tools.call('wait')"))

        async def begun() -> bool:
            return bool(link.calls)

        async def cancelled() -> bool:
            return link.cancelled == 1

        await eventually(begun, "the call runs", within=20)
        await process.kill()
        await eventually(cancelled, "the call is cancelled")
        assert await _call(guest, "echo", a=1) == '{"a": 1}'

    @check("tools.none", needs=Feature.TOOLS)
    async def test_tools_none(self, make_guest: MakeGuest) -> None:
        """Without a grant there is nobody to call, though the host has functions."""
        link = _Link()
        guest = await make_guest(Policy(), tools=link)
        assert (await guest.py(_ABSENT)).text == "none"
        assert not link.calls
