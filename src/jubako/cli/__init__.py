"""L6: the ``jubako`` command. One file a verb; nothing is imported before it is needed."""

from __future__ import annotations

import sys

from jubako._version import __version__

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--version"]:
        # Before anything else is imported, so that asking for the version costs next to nothing.
        sys.stdout.write(f"jubako {__version__}\n")
        return 0
    from jubako.cli.app import run

    return run(given)
