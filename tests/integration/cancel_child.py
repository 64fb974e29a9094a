"""Cancels launches and runs at random moments, then says which processes are left below it."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

import anyio

from jubako.runtime import AsyncSandbox, Runtime

PR_SET_CHILD_SUBREAPER = 36


async def rounds(count: int, latest: float) -> None:
    async with Runtime() as runtime:
        async with AsyncSandbox(boundary="process", runtime=runtime):
            pass  # the driver is ready from here on
        for _ in range(count):
            with anyio.move_on_after(random.uniform(0, latest)):
                async with AsyncSandbox(boundary="process", runtime=runtime) as box:
                    await box.run("pass")
        async with AsyncSandbox(boundary="process", runtime=runtime) as box:
            assert (await box.run("print(6 * 7)")).stdout == "42\n"


def left() -> list[str]:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def main() -> None:
    assert ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    anyio.run(rounds, int(sys.argv[1]), float(sys.argv[2]))
    deadline = time.monotonic() + 5
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    found = [f"{pid} {Path(f'/proc/{pid}/cmdline').read_text()[:200]!r}" for pid in left()]
    for line in found:
        os.kill(int(line.split()[0]), 9)
    sys.stdout.write("\n".join(found))


if __name__ == "__main__":
    main()
