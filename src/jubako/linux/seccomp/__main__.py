"""Print the default profile as a Markdown table: ``python -m jubako.linux.seccomp``."""

from __future__ import annotations

import sys

from jubako.linux.seccomp.default import DEFAULT
from jubako.linux.seccomp.describe import markdown

if __name__ == "__main__":
    sys.stdout.write(markdown(DEFAULT) + "\n")
