"""The raw ``runsc`` as one would use it by hand: a bundle with the same toolchain, no limits, no record."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import threading
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Final, Self, cast

from _rivals import PATH
from jubako.jail.bubblewrap.layout import etc_shared, toolchain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
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
        self._watchdog = threading.Timer(_SECONDS, process.kill)

    def line(self) -> bytes:
        """Return the next line of output; nothing when the container has ended."""
        return cast("IO[bytes]", self._process.stdout).readline()

    def ask(self, code: str) -> bytes:
        """Return what one line of Python prints."""
        stdin = cast("IO[bytes]", self._process.stdin)
        stdin.write(code.encode() + b"\n")
        stdin.flush()
        return self.line()

    def __enter__(self) -> Self:
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


class RawRunsc:
    """One ``runsc`` binary with a state directory and bundles below ``scratch``."""

    def __init__(self, program: str, platform: str, scratch: Path) -> None:
        self._scratch = scratch / "runsc"
        self._root = self._scratch / "rootfs"
        self._images: dict[tuple[str, ...], Path] = {}
        self._head = [
            program, f"--root={self._scratch / 'state'}", f"--platform={platform}", "--network=none",
            "--host-uds=none", "--file-access=exclusive", *(["--rootless"] if os.geteuid() else []),
        ]  # fmt: skip
        for name in ("usr", "etc", "proc", "dev", "tmp", "workspace", "sys"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        for name, target in toolchain():
            if target and not (self._root / name).is_symlink():
                (self._root / name).symlink_to(target)

    def program(self, argv: Sequence[str]) -> Callable[[], bytes]:
        """Return what runs a program in a fresh container and returns what it prints; the bundle is made before.

        That raises RuntimeError when the program or ``runsc`` fails.
        """
        bundle = self._bundle(f"program-{secrets.token_hex(4)}", argv)

        def run() -> bytes:
            name = f"bench-{secrets.token_hex(4)}"
            return self._command("run", f"--bundle={bundle}", name)

        return run

    @contextmanager
    def answering(self, *modules: str) -> Iterator[tuple[str, Talker]]:
        """Yield a container whose Python has imported ``modules`` and waits for lines."""
        with self._container(modules, "run") as (name, process), Talker(process) as talker:
            if talker.line() != b"ready\n":
                raise RuntimeError("runsc run: the container did not start")
            yield name, talker

    def exec(self, name: str, argv: Sequence[str]) -> bytes:
        """Return what a further program prints in a container. Raises RuntimeError when it fails."""
        return self._command("exec", name, *argv)

    def checkpoint(self, *modules: str) -> Path:
        """Return an image of a container that has imported ``modules``; it is made once."""
        if modules not in self._images:
            image = self._scratch / f"image-{len(self._images)}"
            with self.answering(*modules) as (name, _):
                self._command("checkpoint", f"--image-path={image}", name)
            self._images[modules] = image
        return self._images[modules]

    @contextmanager
    def restored(self, *modules: str) -> Iterator[Talker]:
        """Yield a container that goes on from the image with ``modules``."""
        image = self.checkpoint(*modules)
        with self._container(modules, "restore", f"--image-path={image}") as (_, process), Talker(process) as talker:
            yield talker

    def _bundle(self, name: str, argv: Sequence[str]) -> Path:
        shared: dict[str, object] = {"type": "bind", "options": ["ro", "rbind"]}
        mounts: list[dict[str, object]] = [
            {"destination": "/usr", "source": "/usr", **shared},
            *({"destination": f"/etc/{item}", "source": f"/etc/{item}", **shared} for item in etc_shared()),
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/workspace", "type": "tmpfs", "source": "tmpfs"},
        ]
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
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
        }
        place = self._scratch / name
        place.mkdir()
        (place / "config.json").write_text(json.dumps(config))
        return place

    def _command(self, *words: str) -> bytes:
        done = subprocess.run(
            [*self._head, *words], stdin=subprocess.PIPE, capture_output=True, check=False, timeout=_SECONDS
        )
        if done.returncode:
            msg = f"runsc {words[0]}: status {done.returncode}, printed {done.stdout[:40]!r} {done.stderr[-200:]!r}"
            raise RuntimeError(msg)
        return done.stdout

    @contextmanager
    def _container(
        self, modules: Sequence[str], verb: str, *words: str
    ) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        name = f"bench-{secrets.token_hex(4)}"
        place = self._bundle(name, ["/usr/bin/python3", "-c", _ANSWERER, *modules])
        process = subprocess.Popen(
            [*self._head, verb, f"--bundle={place}", *words, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield name, process
        finally:
            with suppress(RuntimeError):  # it may have ended
                self._command("kill", name, "KILL")
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(RuntimeError):  # `run` removes what it ran
                self._command("delete", "--force", name)
            shutil.rmtree(place)
