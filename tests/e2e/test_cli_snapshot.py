"""``jubako snapshot`` and what ``run`` does with snapshots and preloaded modules, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.driver("bwrap")

# The command with one driver more, whose snapshots are files of the workspace.
COMMAND = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "integration")!r})
from jubako.boundary import registry
from jubako.boundary.contract import BoundaryKind
entry = registry.DriverEntry("copying", "copying:CopyingDriver", BoundaryKind.PROCESS)
make = registry.DriverRegistry.__init__
def init(self, built_in=(*registry.BUILT_IN, entry), scan=tuple):
    make(self, built_in, scan)
registry.DriverRegistry.__init__ = init
from jubako.cli import main
sys.exit(main())
"""


def jubako(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
    )


def test_a_snapshot_from_making_to_removing(tmp_path: Path, state_home: Path) -> None:
    (tmp_path / "data.txt").write_text("from the host")
    made = jubako(
        "snapshot", "create", "--driver", "copying", "--name", "base", "--file", "data.txt",
        "-c", "open('made.txt', 'w').write('made inside')", cwd=tmp_path,
    )  # fmt: skip
    assert (made.stdout, made.returncode) == ("base\n", 0), made.stderr
    (document,) = json.loads(jubako("snapshot", "list", "--json").stdout)
    assert (document["name"], document["driver"], document["boundary"]) == ("base", "copying", "process")
    line = jubako("snapshot", "list").stdout
    assert line.startswith(f"{document['digest'][:12]}  base ")
    for key in ("base", document["digest"][:10]):
        ran = jubako("run", "--from", key, "-c", "print(open('data.txt').read(), open('made.txt').read())")
        assert (ran.stdout, ran.returncode) == ("from the host made inside\n", 0), ran.stderr
    (tmp_path / "job.py").write_text("import sys; print(sys.argv[1:], open('made.txt').read())")
    ran = jubako("run", "--from", "base", "--json", "job.py", "a", cwd=tmp_path)
    assert json.loads(ran.stdout)["stdout"] == "['a'] made inside\n"
    assert json.loads(ran.stdout)["driver"] == "copying"
    taken = jubako("snapshot", "create", "--driver", "copying", "--name", "base")
    assert taken.returncode == 125
    assert "name-taken" in taken.stderr
    gone = jubako("snapshot", "rm", "base", "--json")
    assert json.loads(gone.stdout) == {"removed": ["base"]}
    missing = jubako("snapshot", "rm", "base")
    assert missing.returncode == 125
    assert "snapshot-not-found" in missing.stderr
    assert jubako("snapshot", "list").stdout == ""
    assert list((state_home / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--from", "base", "--boundary", "process", "-c", "1"), "--from takes boundary"),
        (("run", "--from", "base", "--preload", "json", "-c", "1"), "--from takes boundary"),
        (("run", "--from", "base", "-c", "1"), "no snapshot has the name or digest 'base'"),
        (("run", "--preload", "not a module", "-c", "1"), "preload.0"),
        (("snapshot", "create", "--driver", "bwrap"), "driver bwrap has no snapshot on this machine"),
        (("snapshot", "create", "--driver", "copying", "-c", "raise SystemExit(3)"), "command-failed"),
        (("snapshot", "rm"), "SNAPSHOT"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], message: str, state_home: Path) -> None:
    result = jubako(*arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert list((state_home / "snapshots").glob("*")) == [] or not (state_home / "snapshots").exists()


def test_webassembly_needs_its_boundary(tmp_path: Path) -> None:
    (tmp_path / "tool.wasm").write_bytes(b"\0asm\1\0\0\0")
    result = jubako("run", "--boundary", "process", "tool.wasm", cwd=tmp_path)
    assert result.returncode == 2
    assert "tool.wasm is a WebAssembly program: it needs the boundary wasm, not process" in result.stderr
    result = jubako("run", "--driver", "bwrap", "tool.wasm", cwd=tmp_path)
    assert result.returncode == 2
    assert "needs the boundary wasm, not process" in result.stderr
