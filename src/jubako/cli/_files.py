"""Copying host files into a sandbox, as the caller asked for them by name."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jubako._lib.text import printable
from jubako.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jubako.runtime import AsyncFiles

__all__ = ["Upload", "parse_uploads", "upload"]


@dataclass(frozen=True, slots=True)
class Upload:
    """One host file or directory, and where it goes inside."""

    source: Path
    target: str


def parse_uploads(given: Iterable[str]) -> tuple[Upload, ...]:
    """Return the uploads for ``SRC[:DEST]``; DEST is the name of SRC in the workspace when left out.

    Raises InvalidRequestError where SRC is neither a file nor a directory.
    """
    return tuple(_parse(text) for text in given)


def _parse(text: str) -> Upload:
    source, target = Path(text), ""
    if not source.exists() and ":" in text:
        head, _, target = text.rpartition(":")
        source = Path(head)
    if not (source.is_file() or source.is_dir()):
        msg = f"--file {printable(text)}: no such file or directory"
        raise InvalidRequestError(msg, hint="write it as SRC or SRC:DEST", details={"path": str(source)})
    return Upload(source, target or source.resolve().name)


async def upload(files: AsyncFiles, item: Upload) -> None:
    """Copy one upload in. Links within a directory are left out: what they name was not asked for."""
    for source, target in _entries(item):
        if source is None:
            await files.mkdir(target)
        else:
            data, mode = _content(source)
            await files.write(target, data, mode=mode)


def _entries(item: Upload) -> Iterator[tuple[Path | None, str]]:
    """Yield host file and place inside of each file, and None and the place of each directory."""
    if item.source.is_file():
        yield item.source, item.target
        return
    yield None, item.target
    for root, directories, names in os.walk(item.source):
        below = Path(root).relative_to(item.source)
        for name in sorted(directories):
            if not (Path(root) / name).is_symlink():
                yield None, f"{item.target}/{below / name}"
        for name in sorted(names):
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                yield path, f"{item.target}/{below / name}"


def _content(source: Path) -> tuple[bytes, int]:
    try:
        return source.read_bytes(), 0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644
    except OSError as error:
        msg = f"{printable(str(source))} can't be read: {error.strerror}"
        raise InvalidRequestError(msg, details={"path": str(source)}) from error
