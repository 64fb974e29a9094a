"""Programs that the checks run inside, in portable Python.

They run natively under CPython 3.8 and newer, and under CPython for WASI, which has neither processes
nor signals, sockets, terminals, threads, permission bits or /proc.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CAT", "IDLE", "LS", "MAKE", "MODE", "PIPE", "SHOW"]

CAT: Final = """
import sys
for data in iter(lambda: sys.stdin.buffer.read1(65536), b""):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
"""
"""Gives its input back as it comes."""

IDLE: Final = "import time; time.sleep(60)"
"""Does nothing for a minute."""

LS: Final = "import os, sys; print(*sorted(os.listdir(sys.argv[1])), sep=chr(10))"
"""Lists a directory."""

SHOW: Final = """
import sys
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        sys.stdout.buffer.write(file.read())
"""
"""Writes the content of files to its output."""

MAKE: Final = """
import os, sys
for item in sys.argv[1:]:
    name, link, target = item.partition("->")
    if item.endswith("/"):
        os.makedirs(item, exist_ok=True)
    elif link:
        os.symlink(target, name)
    else:
        name, _, text = item.partition("=")
        with open(name, "w") as file:
            file.write(text)
"""
"""Makes directories (``name/``), links (``name->target``) and files (``name=content``)."""

MODE: Final = "import os, sys; print(os.stat(sys.argv[1]).st_mode & 0o7777)"
"""Tells a file's permission bits; zero where programs see none."""

PIPE: Final = """
import os, sys
if not hasattr(os, "mkfifo"):
    sys.exit(3)
os.mkfifo(sys.argv[1])
"""
"""Makes a named pipe; 3 where there are none."""
