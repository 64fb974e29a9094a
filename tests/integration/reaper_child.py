"""Forks processes that make, use and destroy sandboxes until somebody kills them.

Arguments: a boundary and its driver. Reads lines: ``fork`` answers with the pid of a new such process,
``wait PID`` with how it ended, ``children`` with what is left below this process. It adopts whatever
its dead children leave running, so that nothing can hide.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import anyio

from jubako.boundary.registry import DriverRegistry
from jubako.runtime import AsyncSandbox, Runtime

PR_SET_CHILD_SUBREAPER = 36


async def cycle(runtime: Runtime) -> None:
    while True:
        async with AsyncSandbox(boundary=sys.argv[1], runtime=runtime) as box:
            await box.files.write("data", b"x" * 100_000)
            process = await box.exec(["sh", "-c", "sleep 60 & sleep 0.005; echo done"])
            await process.stdout.readline()
            await box.run("pass")


async def work(registry: DriverRegistry | None) -> None:
    async with Runtime(registry=registry) as runtime, anyio.create_task_group() as tasks:
        tasks.start_soon(cycle, runtime)
        tasks.start_soon(cycle, runtime)


def say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def reap_zombies() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    # Every second process finds the driver ready, so that its time goes into sandboxes and not into the probe.
    probed = DriverRegistry()
    anyio.run(probed.load(sys.argv[2]).probe)
    count = 0
    say("ready")
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "fork":
            count += 1
            pid = os.fork()
            if pid == 0:
                os.close(0)
                anyio.run(work, probed if count % 2 else None)
            say(pid)
        elif command == "wait":
            say(os.waitpid(int(argument), 0)[1])
        elif command == "children":
            reap_zombies()
            say(Path(f"/proc/self/task/{os.getpid()}/children").read_text())


if __name__ == "__main__":
    main()
