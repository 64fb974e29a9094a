"""``python -m jubako`` is the ``jubako`` command."""

import sys

from jubako.cli import main

if __name__ == "__main__":
    sys.exit(main())
