"""The raw ``runsc`` as one would use it by hand: a bundle with the same toolchain, no limits, no record."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Final, Self, cast

from _rivals import PATH
from jubako.jail.bubblewrap.layout import etc_shared, toolchain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["RawRunsc", "Talker"]

_SECONDS: Final = 120
_ANSWERER: Final = (
    "import sys\n"
    "for name in sys.argv[1:]: __import__(name)\n"
    "print('ready', flush=True)\n"
    "for line in sys.stdin: exec(line); sys.stdout.flush()\n"
)


class Talker:
    """A container whose first program answers a line of Python with a line of output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process id of the ``runsc`` that waits for the container."""
        return self._process.pid

    def line(self) -> bytes:
        """Return the next line of output."""
        return cast("IO[bytes]", self._process.stdout).readline()

    def ask(self, code: str) -> bytes:
        """Return what one line of Python prints."""
        stdin = cast("IO[bytes]", self._process.stdin)
        stdin.write(code.encode() + b"\n")
        stdin.flush()
        return self.line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


class RawRunsc:
    """One ``runsc`` binary with a state directory and bundles below ``scratch``."""

    def __init__(self, program: str, platform: str, scratch: Path) -> None:
        self._scratch = scratch / "runsc"
        self._root = self._scratch / "rootfs"
        self._head = [
            program, f"--root={self._scratch / 'state'}", f"--platform={platform}", "--network=none",
            "--host-uds=none", "--file-access=exclusive",
        ]  # fmt: skip
        for name in ("usr", "etc", "proc", "dev", "tmp", "workspace", "sys"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        for name, target in toolchain():
            if target and not (self._root / name).is_symlink():
                (self._root / name).symlink_to(target)

    def _bundle(self, name: str, argv: Sequence[str]) -> Path:
        mounts: list[dict[str, object]] = [
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["ro", "rbind"]},
            *(
                {"destination": f"/etc/{item}", "type": "bind", "source": f"/etc/{item}", "options": ["ro", "rbind"]}
                for item in etc_shared()
            ),
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/workspace", "type": "tmpfs", "source": "tmpfs"},
        ]
        spaces = ("pid", "network", "ipc", "uts", "mount")
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 1000, "gid": 1000},
                "args": list(argv),
                "env": [f"PATH={PATH}"],
                "cwd": "/workspace",
                "noNewPrivileges": True,
            },
            "root": {"path": str(self._root), "readonly": True},
            "mounts": mounts,
            "linux": {"namespaces": [{"type": kind} for kind in spaces]},
        }
        place = self._scratch / name
        place.mkdir()
        (place / "config.json").write_text(json.dumps(config))
        return place

    def _command(self, *words: str) -> None:
        done = subprocess.run(
            [*self._head, *words], stdin=subprocess.PIPE, capture_output=True, check=False, timeout=60
        )
        if done.returncode:
            msg = f"runsc {words[0]}: status {done.returncode} {done.stderr[-200:]!r}"
            raise RuntimeError(msg)

    @contextmanager
    def _container(self, verb: str, argv: Sequence[str], *words: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        name = f"bench-{secrets.token_hex(4)}"
        place = self._bundle(name, argv)
        process = subprocess.Popen(
            [*self._head, verb, f"--bundle={place}", *words, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield name, process
        finally:
            with suppress(RuntimeError):
                self._command("kill", name, "KILL")
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(RuntimeError):
                self._command("delete", "--force", name)
            shutil.rmtree(place)

    def run(self, argv: Sequence[str]) -> bytes:
        """Return what a program prints in a container of its own. Raises RuntimeError when it fails."""
        with self._container("run", argv) as (_, process):
            out, _ = process.communicate(timeout=_SECONDS)
        if process.returncode:
            msg = f"runsc run: status {process.returncode}, printed {out[:40]!r}"
            raise RuntimeError(msg)
        return out

    @contextmanager
    def answering(self, *modules: str) -> Iterator[tuple[str, Talker]]:
        """Yield a container whose Python has imported ``modules`` and waits for lines."""
        argv = ["/usr/bin/python3", "-c", _ANSWERER, *modules]
        with self._container("run", argv) as (name, process), Talker(process) as talker:
            _ready(talker)
            yield name, talker

    def exec(self, name: str, argv: Sequence[str]) -> bytes:
        """Return what a further program prints in a container. Raises RuntimeError when it fails."""
        done = subprocess.run(
            [*self._head, "exec", name, *argv],
            stdin=subprocess.PIPE,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
        if done.returncode:
            msg = f"runsc exec: status {done.returncode} {done.stderr[-200:]!r}"
            raise RuntimeError(msg)
        return done.stdout

    def checkpoint(self, *modules: str) -> Path:
        """Return an image of a container that has imported ``modules``."""
        image = self._scratch / f"image-{'-'.join(modules) or 'plain'}"
        with self.answering(*modules) as (name, _):
            self._command("checkpoint", f"--image-path={image}", name)
        return image

    @contextmanager
    def restored(self, image: Path, *modules: str) -> Iterator[Talker]:
        """Yield a container that goes on from an image."""
        argv = ["/usr/bin/python3", "-c", _ANSWERER, *modules]
        with self._container("restore", argv, f"--image-path={image}") as (_, process), Talker(process) as talker:
            yield talker


def _ready(talker: Talker) -> None:
    if talker.line() != b"ready\n":
        raise RuntimeError("the container did not start")
