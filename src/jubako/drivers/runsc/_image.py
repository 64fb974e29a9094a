"""A container's image on the host's disk: room for it, writing it, its digest.

``runsc checkpoint`` ends the container whether it could write or not, so room is proven beforehand. It
runs in the sandbox's own namespaces, as its user, and reaches one directory by descriptor, nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import select
import signal
import subprocess
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from jubako.errors import LaunchError, SnapshotError
from jubako.linux.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from jubako.jail.bubblewrap import Launched

__all__ = ["digest_of", "image_files", "prove_room", "settle", "staging", "write_image"]

_STAGING: Final = "writing"
_SPARE: Final = 32 * 1024 * 1024
"""Bytes that an image may be larger than the memory of what it is made of."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_MOST_FILES: Final = 16
_SECONDS: Final = 120.0
_ENDING_SECONDS: Final = 5.0
_CHUNK: Final = 1024 * 1024
_NAMESPACES: Final = {
    "user": "--user",
    "mnt": "--mount",
    "pid": "--pid",
    "net": "--net",
    "ipc": "--ipc",
    "uts": "--uts",
}


def staging(directory: Path, *, foreign: bool) -> Path:
    """Return a new directory below the private ``directory`` into which the sandbox's user may write.

    ``foreign``: that user is another one than ours. It gets there by descriptor only.
    """
    place = directory / _STAGING
    place.mkdir(mode=0o700)
    if foreign:
        place.chmod(0o733)
    return place


def prove_room(directory: Path, memory: int) -> None:
    """Return if an image of a sandbox that uses ``memory`` bytes finds room. Blocking. Raises SnapshotError."""
    size = memory + _SPARE
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT}:  # no unnamed files there
            space = os.statvfs(directory)
            if space.f_bavail * space.f_frsize >= size:
                return
        msg = f"there is no room for a snapshot of {size >> 20} MiB in {directory}: {error.strerror}"
        raise SnapshotError(msg, hint="free some space", details={"size": size}) from error


async def write_image(launched: Launched, nsenter: str, command: Sequence[str], name: str, place: Path) -> None:
    """Write the container down into ``place``; it ends thereby.

    Args:
        launched: The sandbox, with runsc as its first process.
        nsenter: The program that enters its namespaces.
        command: runsc with its global flags.
        name: The container's name.
        place: A directory that the sandbox's user may write to.

    Raises:
        SnapshotError: With what runsc said. The container may go on or not.
    """
    with ExitStack() as stack:
        try:
            opened = _open_all(stack, launched, place)
        except OSError as error:
            msg = f"the sandbox can't be written down: {error.strerror}"
            raise SnapshotError(msg) from error
        *spaces, target = opened
        enter = [f"{flag}=/proc/self/fd/{number}" for flag, number in zip(_NAMESPACES.values(), spaces, strict=True)]
        argv = [nsenter, *enter, "--", *command, "checkpoint", "--image-path", f"/proc/self/fd/{target}", name]
        try:
            child = spawn(argv, pass_fds=opened, stdout=subprocess.STDOUT, cwd="/")
        except LaunchError as error:
            raise SnapshotError(error.message, hint=error.hint) from error
        async with child:
            with anyio.move_on_after(_SECONDS):
                await child.wait()
            if child.returncode == -signal.SIGKILL and await _wrote(launched, place):
                # The container's end was quicker: it ends the namespace in which this was to say so.
                return
            if child.returncode != 0:
                said = child.stderr_text()[-600:] or f"status {child.returncode}"
                msg = f"gVisor could not write the sandbox down: {said}"
                raise SnapshotError(msg)


async def _wrote(launched: Launched, place: Path) -> bool:
    """Return whether the sandbox has ended and left an image. Going on from it proves that it is whole."""
    with anyio.move_on_after(_ENDING_SECONDS):
        await launched.ended()
        return any(path.stat().st_size for path in await to_thread.run_sync(image_files, place))
    return False


def _open_all(stack: ExitStack, launched: Launched, place: Path) -> tuple[int, ...]:
    """Return descriptors of the sandbox's namespaces and of the directory, sure that they are the sandbox's."""
    opened: list[int] = []
    for path in (*(f"/proc/{launched.pid}/ns/{name}" for name in _NAMESPACES), str(place)):
        opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        stack.callback(os.close, opened[-1])
    poller = select.poll()
    poller.register(launched.pidfd, select.POLLIN)
    if poller.poll(0):
        # Its number may be somebody else's by now.
        raise ProcessLookupError(errno.ESRCH, "the sandbox has ended")
    return tuple(opened)


def settle(directory: Path) -> None:
    """Move what was written to its place and make it ours. Blocking. Raises SnapshotError."""
    place = directory / _STAGING
    try:
        for path in image_files(place):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchown(descriptor, os.geteuid(), os.getegid())
                # A restored sandbox's user reads it, by a descriptor: the directory is private.
                os.fchmod(descriptor, 0o444)
            finally:
                os.close(descriptor)
            path.rename(directory / path.name)
        place.rmdir()
    except OSError as error:
        msg = f"the snapshot can't be put into its place: {error}"
        raise SnapshotError(msg) from error


def image_files(directory: Path) -> tuple[Path, ...]:
    """Return the files of an image. Raises SnapshotError when there is something else, or nothing."""
    found: list[Path] = []
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if not (_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)) or len(found) == _MOST_FILES:
                msg = f"{directory} holds something that is not part of a snapshot"
                raise SnapshotError(msg)
            found.append(directory / entry.name)
    if not found:
        msg = f"{directory} holds no snapshot"
        raise SnapshotError(msg)
    return tuple(sorted(found))


def digest_of(directory: Path) -> str:
    """Return the SHA-256, in hex, over names and contents. Blocking. Raises SnapshotError."""
    digest = hashlib.sha256()
    try:
        for path in image_files(directory):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            for chunk in _chunks(path):
                digest.update(chunk)
    except OSError as error:
        msg = f"the snapshot in {directory} can't be read: {error.strerror}"
        raise SnapshotError(msg) from error
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[memoryview]:
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            yield view[:size]
