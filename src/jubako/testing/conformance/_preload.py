"""preload.*: programs that start as forks of an interpreter which has imported modules already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from jubako.boundary.contract import Enforcement, Feature
from jubako.errors import InstanceLostError, InvalidRequestError
from jubako.policy import Policy, ResourcePolicy
from jubako.testing.conformance._checks import Checks, check
from jubako.testing.conformance._guest import marker, read_until, soon

if TYPE_CHECKING:
    from jubako.testing.conformance._bench import MakeGuest
    from jubako.testing.conformance._guest import Guest

__all__ = ["PreloadChecks"]

_MODULES: Final = ("decimal", "json.tool", "random", "tempfile", "uuid")
_LOADED: Final = "import sys; print('json.tool' in sys.modules, sys.argv[1:], __name__)"
_STATE: Final = """
import json, os, random, sys, tempfile, uuid
print(hasattr(json, "mine"), "MINE" in os.environ, "wave" in sys.modules, os.path.exists("mine"))
json.mine = os.environ["MINE"] = "1"
import wave
print(random.random(), random.getrandbits(64), uuid.uuid4(), next(tempfile._get_candidate_names()))
"""
_DEEP: Final = """
def outer():
    inner()
def inner():
    raise ValueError("mine")
outer()
"""
_FAMILY: Final = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.execvp("sleep", ["sleep", sys.argv[1]])
print(os.getpid() == os.getsid(0), flush=True)
time.sleep(60)
"""
_BOMB: Final = """
held = []
try:
    while len(held) < 1024: held.append(bytearray(b"x") * (1 << 20))
except MemoryError:
    raise SystemExit(77)
print("held", len(held))
"""
_FORKS: Final = """
import os, time
made = 0
try:
    for _ in range(400):
        if os.fork() == 0: time.sleep(60); os._exit(0)
        made += 1
except OSError as error:
    print(made, error.errno, flush=True)
    time.sleep(60)
"""


class PreloadChecks(Checks):
    """A preloaded program is like any other, but that its modules are there when it begins."""

    @check("features.preload")
    async def test_features_preload(self, guest: Guest) -> None:
        """Where nothing is preloaded, a request for a preloaded program is refused."""
        with pytest.raises(InvalidRequestError):
            await guest.py("", preloaded=True)
        assert (await guest.py("print(1)")).text == "1"

    @check("preload.modules", needs=Feature.PRELOAD)
    async def test_preload_modules(self, make_guest: MakeGuest) -> None:
        """The modules are there for programs that ask for it, and for no others."""
        guest = await make_guest(preload=_MODULES)
        assert (await guest.py(_LOADED, "a b", preloaded=True)).text == "True ['a b'] __main__"
        assert (await guest.py(_LOADED, "a b")).text == "False ['a b'] __main__"
        await guest.files.write(guest.workspace / "script.py", b"import helper, sys; print(sys.argv, helper.__file__)")
        await guest.files.write(guest.workspace / "helper.py", b"")
        command = (guest.toolchain.python[0], "script.py", "-x")
        cold, warm = await guest.run(*command), await guest.run(*command, preloaded=True)
        assert (warm.status, warm.stdout, warm.stderr) == (cold.status, cold.stdout, cold.stderr)
        assert warm.text == f"['script.py', '-x'] {guest.workspace}/helper.py"

    @check("preload.request", needs=Feature.PRELOAD)
    async def test_preload_request(self, make_guest: MakeGuest) -> None:
        """Input, environment and working directory are those of the request."""
        guest = await make_guest(preload=_MODULES)
        await guest.files.mkdir(guest.workspace / "place")
        code = "import os, sys; print(os.getcwd(), os.environ['A'], sys.stdin.read()); print('e', file=sys.stderr)"
        done = await guest.run(*guest.python(code), preloaded=True, cwd="place", env={"A": "\u00e9"}, feed=b"input")
        assert (done.text, done.stderr) == (f"{guest.workspace}/place \u00e9 input", b"e\n")

    @check("preload.isolated", needs=Feature.PRELOAD)
    async def test_preload_isolated(self, make_guest: MakeGuest) -> None:
        """Programs see nothing of each other's changes, and each has random state of its own."""
        guest = await make_guest(preload=_MODULES)
        seen: list[tuple[str, ...]] = []
        for _ in range(3):
            first, second = (await guest.py(_STATE, preloaded=True)).text.splitlines()
            assert first == "False False False False"
            seen.append(tuple(second.split()))
        for values in zip(*seen, strict=True):
            assert len(set(values)) == len(seen), f"forks share random state: {values}"

    @check("preload.exit", needs=Feature.PRELOAD)
    async def test_preload_exit(self, make_guest: MakeGuest) -> None:
        """Exit codes, signals and tracebacks are as without preloading."""
        guest = await make_guest(preload=_MODULES)
        for code in ("import sys; sys.exit(7)", "import sys; sys.exit('why')", _DEEP, "1 +", "import os; os.abort()"):
            cold, warm = await guest.py(code), await guest.py(code, preloaded=True)
            assert (warm.status, warm.stdout, warm.stderr) == (cold.status, cold.stdout, cold.stderr), code

    @check("preload.ends", needs=(Feature.PRELOAD, Feature.PROCESSES))
    async def test_preload_ends(self, make_guest: MakeGuest) -> None:
        """A kill ends the program with all its descendants, a timeout too; the next one runs."""
        guest = await make_guest(preload=_MODULES)
        mark = marker()
        process = await guest.start(*guest.python(_FAMILY, mark), preloaded=True)
        assert await read_until(process.stdout, b"\n") == b"True\n"
        await guest.until_alive(mark)  # the child; not every kernel lets a fork show arguments of its own
        await process.kill()
        assert await guest.alive(mark) == 0
        done = await guest.py("import time; time.sleep(10)", preloaded=True, timeout=0.5)
        assert done.status.timed_out
        assert (await guest.py("print(1)", preloaded=True)).text == "1"

    @check("preload.memory", needs=Feature.PRELOAD)
    async def test_preload_memory(self, make_guest: MakeGuest) -> None:
        """The memory limit holds for preloaded programs, and the next one runs."""
        guest = await make_guest(Policy(resources=ResourcePolicy(memory=256 * 1024 * 1024)), preload=_MODULES)
        if guest.level("resource.memory") is Enforcement.UNENFORCED:
            pytest.skip("the plan says that resource.memory is not enforced here")
        try:
            done = await guest.py(_BOMB, preloaded=True)
        except InstanceLostError:
            assert guest.level("resource.memory") is Enforcement.PARTIAL
            with soon():
                assert "resource.memory" in (await guest.instance.wait()).limits
            return
        assert done.stdout == b""
        assert done.status.code != 0
        assert (await guest.py("print(1)", preloaded=True)).text == "1"

    @check("preload.processes", needs=Feature.PRELOAD)
    async def test_preload_processes(self, make_guest: MakeGuest) -> None:
        """The limit on processes holds for preloaded programs; when they are gone, the next one runs."""
        guest = await make_guest(Policy(resources=ResourcePolicy(processes=32)), preload=_MODULES)
        if guest.level("resource.processes") is not Enforcement.ENFORCED:
            pytest.skip("the plan says that resource.processes is not enforced here")
        process = await guest.start(*guest.python(_FORKS), preloaded=True)
        made, error = map(int, (await read_until(process.stdout, b"\n")).split())
        assert made <= 32
        assert error == 11  # EAGAIN
        await process.kill()
        assert (await guest.py("print(1)", preloaded=True)).text == "1"

    @check("preload.failing", needs=Feature.PRELOAD)
    async def test_preload_failing(self, make_guest: MakeGuest) -> None:
        """A module that can't be imported is named by the first preloaded program; others run."""
        guest = await make_guest(preload=("json", "no_such_module_for_preload"))
        with pytest.raises(InvalidRequestError, match="no_such_module_for_preload"):
            await guest.py("", preloaded=True)
        assert (await guest.py("print(1)")).text == "1"
