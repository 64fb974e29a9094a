"""What a run puts on the host goes away, also after the run was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from jubako.probes.ground import Ground, open_ground
from jubako.probes.remains import open_remains

HOLD = """
import anyio, os, sys
from jubako.probes.ground import open_ground
async def main():
    async with open_ground() as ground:
        print(ground.base.name, flush=True)
        await anyio.sleep(60)
anyio.run(main)
"""


def _marked(name: str) -> list[Path]:
    places = [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.home()]
    return [path for place in places for path in [*place.glob(f"{name}*"), *place.glob(f".{name}*")]]


def _shared(key: str) -> bool:
    return any(line.split()[0] == key for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:])


@pytest.mark.anyio
async def test_everything_is_there_and_then_gone(state_home: Path) -> None:
    async with open_ground() as ground:
        name, key = ground.base.name, ground.values["shm_key"]
        assert await anyio.Path(ground.values["secret"]).read_text() == ground.mark
        assert len(_marked(name)) == 5
        assert _shared(key)
        assert os.environ["JUBAKO_PROBE_SECRET"] == ground.mark
        assert (state_home / "probes" / "running" / name).exists()
    assert _marked(name) == []
    assert not _shared(key)
    assert "JUBAKO_PROBE_SECRET" not in os.environ
    assert list((state_home / "probes" / "running").iterdir()) == []


@pytest.mark.anyio
async def test_an_error_comes_out_as_it_is() -> None:
    held: list[Ground] = []
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the ground is what is tested
        async with open_ground() as ground:
            held.append(ground)
            raise ZeroDivisionError
    assert _marked(held[0].base.name) == []


def test_the_next_run_removes_what_a_killed_one_left(state_home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        notes = [json.loads(line) for line in (state_home / "probes" / "running" / name).read_text().splitlines()]
        key = next(str(note["key"]) for note in notes if note.get("object") == "shm")
        assert _shared(key)
        with open_remains("jubako-probe-while-it-runs"):
            assert len(_marked(name)) == 5, "the living are left alone"
        child.send_signal(signal.SIGKILL)
    assert len(_marked(name)) == 5
    with open_remains("jubako-probe-after"):
        assert _marked(name) == []
        assert not _shared(key)
    assert list((state_home / "probes" / "running").iterdir()) == []


def test_notes_of_others_remove_nothing(state_home: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x")
    with open_remains("jubako-probe-first"):
        pass
    notes = state_home / "probes" / "running" / "forged"
    notes.write_text(f'{json.dumps({"path": str(precious)})}\nnonsense\n{{"object": "shm"}}\n[]\n')
    with open_remains("jubako-probe-second"):
        assert precious.read_text() == "x"
        assert not notes.exists()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_two_grounds_at_once() -> None:
    async def both() -> set[str]:
        async with open_ground() as first, open_ground() as second:
            return {first.base.name, second.base.name}

    assert len(anyio.run(both)) == 2
