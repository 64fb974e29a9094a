"""Write the table of containment probes in docs/boundaries.md, from real runs, one for each driver.

    jubako probe --boundary process --json > process.json; ...; scripts/gen_boundaries.py process.json ...
    scripts/gen_boundaries.py --check

``--check`` changes nothing: it compares the table's controls and programs with the catalogue.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Final

from jubako.probes import PROBES, Verdict
from jubako.probes.results import from_document
from jubako.probes.table import markdown_lines, markdown_names

_PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "boundaries.md"
_BEGIN: Final = "<!-- probes:begin -->\n"
_END: Final = "<!-- probes:end -->"


def main(arguments: list[str]) -> int:
    """Return the exit status: 1 when the check fails or the run is of no use."""
    page = _PAGE.read_text("utf-8")
    head, begin, rest = page.partition(_BEGIN)
    table, end, tail = rest.partition(_END)
    if not begin or not end:
        print(f"{_PAGE.name} has no {_BEGIN.strip()} ... {_END}")
        return 1
    if arguments == ["--check"]:
        return _check(table)
    if not arguments:
        print(__doc__)
        return 2
    reports = [from_document(json.loads(Path(name).read_text("utf-8"))) for name in arguments]
    for report in reports:
        if not report.complete or report.count(Verdict.ESCAPED):
            print(f"the run of {report.driver} is not complete, or something escaped; the page is left as it is")
            return 1
    _PAGE.write_text(head + begin + "\n".join(markdown_lines(*reports)) + "\n" + end + tail, "utf-8")
    return 0


def _check(table: str) -> int:
    shown = set(re.findall(r"`([^`|]+/[^`|]+)` \|(?: [\w-]+ \|)+$", table, re.MULTILINE))
    wanted = set(markdown_names(PROBES))
    for name in sorted(wanted - shown):
        print(f"docs/boundaries.md lacks {name}")
    for name in sorted(shown - wanted):
        print(f"docs/boundaries.md has {name}, which no longer exists")
    if shown != wanted:
        print("run: jubako probe --boundary B --json > B.json for each boundary; scripts/gen_boundaries.py *.json")
    return 0 if shown == wanted else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
