"""Probes in which the host plays a part: it reads files, calls, pauses, kills, or just looks.

Each scenario has two sides. ``outside`` does what a careless host would do and must come to grief;
``inside`` does the same by jubako's means.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from jubako._lib.text import printable
from jubako.boundary.contract import Feature
from jubako.errors import JubakoError
from jubako.probes.model import Verdict
from jubako.probes.outside import end_outside, run_outside, start_outside
from jubako.probes.profiles import OUTPUT_LIMIT
from jubako.probes.scene import Unprovable, contained, escaped, find_tagged, inconclusive, judge

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable, Callable

    from jubako.probes.model import Finding
    from jubako.probes.outside import Saw
    from jubako.probes.scene import Scene
    from jubako.runtime import AsyncFiles

__all__ = ["SCENARIOS", "Scenario"]

_SOON: Final = 5.0
_STARTED: Final = 3.0
_TIMEOUT: Final = 0.6
_BURN: Final = 1.0
_ALLOWED: Final = 0.12
"""CPUs that the slow profile, which has 0.05, may seem to get: the quota is counted in periods."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The two sides of one kind of probe."""

    outside: Callable[[Scene], Awaitable[Finding]]
    inside: Callable[[Scene], Awaitable[Finding]]


# The program does everything by itself.


async def _program_outside(scene: Scene) -> Finding:
    return judge(await run_outside(scene.outside_command(), seconds=scene.probe.seconds))


async def _program_inside(scene: Scene) -> Finding:
    saw = await scene.run_inside()
    finding = judge(saw)
    if finding.verdict is Verdict.INCONCLUSIVE and scene.probe.death and _was_ended(saw):
        return contained(f"ended by the sandbox: {finding.evidence.removeprefix('no verdict: ')}")
    return finding


def _was_ended(saw: Saw) -> bool:
    return bool(saw.limits) or (saw.code is not None and saw.code < 0) or saw.message.startswith("the sandbox ended")


# It may end its own sandbox, but nothing else.


async def _wreck_inside(scene: Scene) -> Finding:
    finding = judge(await scene.run_inside())
    if finding.verdict is Verdict.INCONCLUSIVE:
        finding = contained(f"only its own sandbox was harmed ({finding.evidence})")
    if scene.neighbour is not None and finding.verdict is not Verdict.ESCAPED:
        try:
            process = await scene.neighbour.exec(["python3", "-c", "print('alive')"], timeout=_SOON)
            alive = (await process.result()).stdout_bytes == b"alive\n"
        except JubakoError:
            alive = False
        if not alive:
            return escaped("the neighbour sandbox was harmed")
    return finding


# The host uses files while the program swaps them.


def _lay_trap(scene: Scene) -> Path:
    """Make a directory of the host that must stay as it is."""
    trap = Path(tempfile.mkdtemp(prefix="trap-", dir=scene.ground.base))
    trap.chmod(0o755)
    scene.ground.give(trap)
    (trap / "file").write_text(scene.ground.mark)
    scene.ground.give(trap / "file")
    scene.extra["race"] = str(trap)
    return trap


def _sprung(scene: Scene, trap: Path) -> str:
    names = sorted(path.name for path in trap.iterdir())
    if names != ["file"]:
        return f"the host's directory was changed: {' '.join(names) or 'emptied'}"
    if (trap / "file").read_text() != scene.ground.mark:
        return "the host's file was changed"
    return ""


async def _race_outside(scene: Scene) -> Finding:
    trap = _lay_trap(scene)
    command = scene.outside_command()
    child = start_outside(command)
    try:
        await _line(child, b"READY")
        end = time.monotonic() + _STARTED
        door = Path(command.cwd) / "door"
        while time.monotonic() < end:
            if seen := await _careless(scene, door) or _sprung(scene, trap):
                return escaped(f"a careless host fell for it: {seen}")
            await anyio.lowlevel.checkpoint()
    finally:
        await end_outside(child)
    return inconclusive("the race was not won outside either")


async def _careless(scene: Scene, door: Path) -> str:
    """Use the files as a host would that checks first and acts a moment later."""
    if door.is_symlink():  # noqa: ASYNC240  # quick calls on local files, here and below
        return ""
    await anyio.sleep(0.0005)
    with suppress(OSError):
        if scene.probe.arguments["how"] == "link":
            return "it read the marked file" if scene.ground.mark in (door / "file").read_text() else ""
        if door.is_file():  # noqa: ASYNC240
            with door.open("r+") as file:
                file.write("overwritten")
    return ""


def _steps(files: AsyncFiles) -> tuple[Callable[[], Awaitable[bytes | None]], ...]:
    """What a host does with files: each of these meets the swapped name."""
    return (
        lambda: files.read("door/file"),
        lambda: files.read("door"),
        lambda: files.write("door/file", b"overwritten"),
        lambda: files.write("door", b"overwritten"),
        lambda: files.remove("door/file"),
    )


async def _race_inside(scene: Scene) -> Finding:
    trap = _lay_trap(scene)
    process = await scene.sandbox.exec(scene.inside_argv(), timeout=scene.probe.seconds)
    await process.stdout.receive()
    tries = 0
    end = time.monotonic() + float(scene.probe.arguments["seconds"])
    while time.monotonic() < end:
        tries += 1
        for step in _steps(scene.sandbox.files):
            try:
                read = await step()
            except JubakoError:
                continue
            if isinstance(read, bytes) and scene.ground.mark.encode() in read:
                return escaped("the host read the marked file")
    await process.kill()
    harm = _sprung(scene, trap)
    return escaped(harm) if harm else contained(f"{tries} rounds of reading, writing and removing stayed inside")


# The host calls a port that the program opened.


async def _line(child: subprocess.Popen[bytes], word: bytes) -> bytes:
    """Return the first line when it starts with ``word``. Raises Unprovable."""
    assert child.stdout is not None  # noqa: S101  # a pipe was asked for
    text = b""
    with anyio.move_on_after(_SOON):
        while b"\n" not in text and len(text) < 4096:
            await anyio.wait_readable(child.stdout.fileno())
            piece = os.read(child.stdout.fileno(), 4096)
            if not piece:
                break
            text += piece
    if not text.startswith(word):
        msg = f"the program did not start: {printable(text, 200)}"
        raise Unprovable(msg)
    return text.split(b"\n")[0]


def _call(scene: Scene, port: int) -> None:
    for address in scene.ground.listeners.addresses:
        with suppress(OSError), socket.create_connection((address, port), timeout=0.2) as sock:
            sock.sendall(b"hello")


async def _inbound_outside(scene: Scene) -> Finding:
    child = start_outside(scene.outside_command())
    try:
        _call(scene, int((await _line(child, b"PORT ")).split()[1]))
        assert child.stdout is not None  # noqa: S101  # a pipe was asked for
        with anyio.move_on_after(_SOON):
            await anyio.wait_readable(child.stdout.fileno())
        return judge_text(os.read(child.stdout.fileno(), 4096))
    finally:
        await end_outside(child)


def judge_text(text: bytes) -> Finding:
    """Return the verdict in a piece of output."""
    from jubako.probes.outside import Saw

    return judge(Saw(stdout=text))


async def _inbound_inside(scene: Scene) -> Finding:
    process = await scene.sandbox.exec(scene.inside_argv(), timeout=scene.probe.seconds)
    first = await process.stdout.receive()
    if first.startswith(b"CONTAINED "):
        return judge_text(first)
    if not first.startswith(b"PORT "):
        return inconclusive(f"the program did not start: {printable(first, 200)}")
    _call(scene, int(first.split()[1]))
    return judge_text((await process.result()).stdout_bytes)


# The host looks at the processes from outside.


async def _tagged(scene: Scene) -> dict[int, int]:
    with anyio.move_on_after(_STARTED):
        while not (found := find_tagged(scene.trail)):  # noqa: ASYNC110  # nobody tells of a new process
            await anyio.sleep(0.01)
        return found
    raise Unprovable("the program is not seen from the host: it has a kernel of its own, or did not start")


async def _kernel_user(scene: Scene) -> Finding:
    users = set((await _tagged(scene)).values())
    if 0 in users:
        return escaped("the kernel sees root")
    return contained(f"the kernel sees user {' '.join(str(user) for user in sorted(users))}")


async def _kernel_user_outside(scene: Scene) -> Finding:
    child = start_outside(scene.outside_command())
    try:
        return await _kernel_user(scene)
    finally:
        await end_outside(child)


async def _kernel_user_inside(scene: Scene) -> Finding:
    async with await scene.sandbox.exec(scene.inside_argv(), timeout=scene.probe.seconds):
        return await _kernel_user(scene)


def _switches(pids: dict[int, int]) -> int:
    """How often the processes were put on a CPU so far."""
    count = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path("/proc", str(pid), "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    count += int(line.split()[1])
    return count


async def _moves(pids: dict[int, int]) -> bool:
    before = _switches(pids)
    await anyio.sleep(0.3)
    return _switches(pids) != before


async def _freeze_outside(scene: Scene) -> Finding:
    child = start_outside(scene.outside_command())
    try:
        if await _moves(await _tagged(scene)):
            return escaped("it goes on")
        return inconclusive("it stood still by itself")
    finally:
        await end_outside(child)


async def _freeze_inside(scene: Scene) -> Finding:
    if str(Feature.PAUSE) not in scene.sandbox.card().boundary.features:
        return inconclusive("this machine can't freeze a sandbox as a whole")
    async with await scene.sandbox.exec(scene.inside_argv(), timeout=scene.probe.seconds):
        pids = await _tagged(scene)
        await scene.sandbox.pause()
        try:
            # The first switch may be the one into the freezer.
            await anyio.sleep(0.05)
            moved = await _moves(pids)
        finally:
            await scene.sandbox.resume()
    return escaped("it went on while paused") if moved else contained("nothing moved while paused")


# The host looks at the CPU time that the program takes.


def _ticks(pids: dict[int, int]) -> float:
    """Seconds of CPU time that the processes took so far."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            ticks += sum(map(int, Path("/proc", str(pid), "stat").read_text().rpartition(") ")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def _burn_outside(scene: Scene) -> Finding:
    child = start_outside(scene.outside_command())
    try:
        pids = await _tagged(scene)
        for _ in range(3):  # the machine may be busy
            before = _ticks(pids)
            await anyio.sleep(_BURN)
            pids |= await _tagged(scene)
            if (rate := (_ticks(pids) - before) / _BURN) > _ALLOWED:
                return escaped(f"{rate:.2f} CPUs over {_BURN:.0f} s")
        return inconclusive("the machine is too busy for it to take much outside")
    finally:
        await end_outside(child)


async def _burn_inside(scene: Scene) -> Finding:
    async with await scene.sandbox.exec(scene.inside_argv(), timeout=scene.probe.seconds):
        await anyio.sleep(0.2)
        started, before = time.monotonic(), (await scene.sandbox.usage()).cpu
        await anyio.sleep(_BURN)
        took, after = time.monotonic() - started, (await scene.sandbox.usage()).cpu
    if before is None or after is None:
        return inconclusive("nothing tells here how much it took")
    rate = (after - before).total_seconds() / took
    text = f"{rate:.2f} CPUs over {took:.1f} s"
    return escaped(text) if rate > _ALLOWED else contained(text)


# The host ends the program, the sandbox, or waits for its end.


async def _beats(read: Callable[[], Awaitable[bytes]]) -> bool:
    """Whether a heart still beats: what the program writes into a file changes within a while."""
    before = await read()
    for _ in range(6):
        await anyio.sleep(0.05)
        if await read() != before:
            return True
    return False


async def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()  # noqa: ASYNC240  # a few bytes of a local file
    except OSError:
        return b""


async def _left_outside(scene: Scene, end: Callable[[subprocess.Popen[bytes]], None]) -> Finding:
    command = scene.outside_command()
    child = start_outside(command)
    try:
        await _tagged(scene)
        await anyio.sleep(0.1)
        end(child)
        await anyio.sleep(0.1)
        heart = Path(command.cwd, scene.probe.arguments["path"])
        alive = await _beats(lambda: _read(heart)) or await scene.seen(0.2)
        return escaped("it lives on") if alive else inconclusive("it ended outside too")
    finally:
        await scene.end_tagged()
        await end_outside(child)
        await scene.wait_untagged(_SOON)


async def _timeout_outside(scene: Scene) -> Finding:
    if scene.probe.arguments["kind"] == "plain":
        return await _left_outside(scene, lambda child: os.kill(child.pid, signal.SIGTERM))
    return await _left_outside(scene, lambda child: os.kill(child.pid, signal.SIGKILL))


async def _timeout_inside(scene: Scene) -> Finding:
    started = time.monotonic()
    process = await scene.sandbox.exec(scene.inside_argv(), timeout=_TIMEOUT)
    result = await process.result()
    took = time.monotonic() - started
    if not result.timed_out and took > 2 * _TIMEOUT and result.exit_code == 0:
        return escaped(f"it ran to its own end, {took:.1f} s, with a limit of {_TIMEOUT} s")
    if not result.timed_out and result.stdout_bytes.startswith(b"CONTAINED "):
        return judge_text(result.stdout_bytes)  # it can't even begin
    if not result.timed_out:
        return inconclusive(f"it ended by itself with {result.exit_code}: {printable(result.stderr_bytes[-200:], 200)}")
    heart = scene.probe.arguments["path"]
    alive = False
    if scene.trail == scene.tag:
        await scene.wait_untagged(0.5)
        alive = await scene.seen(0.2)
    if alive or await _beats(lambda: scene.sandbox.files.read(heart)):
        return escaped("it runs on after the time limit")
    return contained(f"all of it ended after {took:.1f} s")


async def _outlive_outside(scene: Scene) -> Finding:
    return await _left_outside(scene, lambda child: os.kill(child.pid, signal.SIGKILL))


async def _outlive_inside(scene: Scene) -> Finding:
    process = await scene.sandbox.exec(scene.inside_argv(), timeout=scene.probe.seconds)
    await process.stdout.receive()
    await _tagged(scene)
    await scene.sandbox.destroy()
    await scene.wait_untagged(0.5)
    return escaped("it outlived the sandbox") if await scene.seen(0.2) else contained("nothing outlived the sandbox")


async def _overstay_outside(scene: Scene) -> Finding:
    child = start_outside(scene.outside_command())
    try:
        await anyio.sleep(1.3)
        return escaped("it lives on") if find_tagged(scene.tag) else inconclusive("it ended outside too")
    finally:
        await end_outside(child)


async def _overstay_inside(scene: Scene) -> Finding:
    with suppress(JubakoError):
        await scene.sandbox.exec(scene.inside_argv())
    await _tagged(scene)
    await scene.wait_untagged(4.0)
    return (
        escaped("it lives on after its time") if await scene.seen(0.1) else contained("the sandbox ended with its time")
    )


# The host reads what the program says.


async def _flood_outside(scene: Scene) -> Finding:
    saw = await run_outside(scene.outside_command(), seconds=scene.probe.seconds, limit=16 * 1024 * 1024)
    size = len(saw.stdout)
    return escaped(f"{size} bytes came out") if size > OUTPUT_LIMIT else inconclusive(f"only {size} bytes came out")


async def _flood_inside(scene: Scene) -> Finding:
    saw = await scene.run_inside()
    size = len(saw.stdout) + len(saw.stderr)
    if size > OUTPUT_LIMIT:
        return escaped(f"{size} bytes came out")
    if not saw.truncated:
        return inconclusive(f"{size} bytes came out, and nothing was cut: {saw.message}")
    return contained(f"cut at {size} bytes, and said so")


async def _text_outside(scene: Scene) -> Finding:
    saw = await run_outside(scene.outside_command(), seconds=scene.probe.seconds)
    return escaped("control characters came out") if b"\x1b" in saw.stdout else inconclusive("nothing came out")


async def _text_inside(scene: Scene) -> Finding:
    name = "\x1b]0;owned\x07\u202e"
    result = await (await scene.sandbox.exec(scene.inside_argv(), timeout=scene.probe.seconds)).result()
    missing = await (await scene.sandbox.exec([f"/{name}"], timeout=scene.probe.seconds)).result()
    texts = [missing.message]
    try:
        result.check()
    except JubakoError as error:
        texts.append(str(error))
    try:
        await scene.sandbox.files.read(f"/tmp/{name}")  # noqa: S108  # a path inside
    except JubakoError as error:
        texts.append(str(error))
    wrong = [text for text in texts if not text.isprintable()]
    if wrong:
        return escaped(f"raw control characters in {len(wrong)} of {len(texts)} texts: {wrong[0]}")
    return contained(f"{len(texts)} error texts are plain")


SCENARIOS: Final = {
    "": Scenario(_program_outside, _program_inside),
    "burn": Scenario(_burn_outside, _burn_inside),
    "flood": Scenario(_flood_outside, _flood_inside),
    "freeze": Scenario(_freeze_outside, _freeze_inside),
    "inbound": Scenario(_inbound_outside, _inbound_inside),
    "kernel-user": Scenario(_kernel_user_outside, _kernel_user_inside),
    "mistake": Scenario(_program_outside, _program_inside),
    "outlive": Scenario(_outlive_outside, _outlive_inside),
    "overstay": Scenario(_overstay_outside, _overstay_inside),
    "race": Scenario(_race_outside, _race_inside),
    "terminal-text": Scenario(_text_outside, _text_inside),
    "timeout": Scenario(_timeout_outside, _timeout_inside),
    "wreck": Scenario(_program_outside, _wreck_inside),
}
"""By the name that a probe gives."""
