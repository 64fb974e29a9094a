"""Measure jubako against the raw tools behind it and others: one command, one table, all in the same run.

Contestants of a case take turns, so that whatever else the machine does meets all of them alike.
Times never make this script fail; a wrong or lost result does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from _boundaries import BOUNDARY_KEYS, Boundaries
from _cases import KEYS, Bench, build, private_state
from _measure import interleave
from _rivals import find_rivals
from _show import figure, progress, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _measure import Row

_ROUNDS: Final = 30
_ALL_KEYS: Final = (*KEYS, *BOUNDARY_KEYS)


def measure(keys: Sequence[str], rounds: int) -> list[Row]:
    """Return the rows of all cases under the keys, in the order of the table."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="jubako-bench-") as name, private_state(Path(name) / "state"):
        scratch = Path(name)
        rivals = find_rivals(scratch)
        boundaries: Boundaries | None = None
        with progress("Benchmarks", len(keys)) as step:
            for key in keys:
                with ExitStack() as stack:
                    if key in BOUNDARY_KEYS:
                        boundaries = boundaries or Boundaries(rivals, scratch)
                        cases = boundaries.build(key, stack)
                    else:
                        cases = build(key, Bench(rivals, stack, scratch))
                    for case in cases:
                        rows += interleave(case, rounds)
                step(key)
    return rows


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    bwrap = shutil.which("bwrap")
    said = subprocess.run([bwrap, "--version"], capture_output=True, text=True, check=False).stdout if bwrap else "-"
    return {
        "kernel": platform.release(),
        "cpu": f"{os.cpu_count()} x {_cpu_name()}",
        "python": platform.python_version(),
        "bubblewrap": said.split()[-1],
        "runsc": _runsc_version(),
        "wasmtime": _installed("wasmtime"),
        "jubako": version("jubako"),
        "user": "root" if os.geteuid() == 0 else "ordinary user",
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def _runsc_version() -> str:
    program = shutil.which("runsc")
    if program is None:
        return "-"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return said[2] if len(said) > 2 else "-"


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def show(rows: Sequence[Row], facts: dict[str, str]) -> None:
    """Print the table, with what the figures depend on below it."""
    columns = (
        ("what", "left"),
        ("who", "left"),
        ("median", "right"),
        ("p95", "right"),
        ("min", "right"),
        ("n", "right"),
        ("rate", "right"),
        ("ratio", "right"),
        ("target", "right"),
    )
    cells = []
    before = ""
    for row in rows:
        cells.append(
            (
                row.title if row.title != before else "",
                f"{row.name}: {row.error}" if row.error else row.name,
                f"{figure(row.samples.median)} {row.unit}",
                figure(row.samples.percentile(0.95)),
                figure(row.samples.minimum),
                str(len(row.samples)),
                f"{figure(row.rate)} {row.amount_unit}/s" if row.amount else "",
                f"{row.ratio:.2f}x" if row.ratio is not None else "",
                f"<= {row.target:.2g}x" if row.target is not None else "",
            )
        )
        before = row.title
    table("jubako beside others", columns, cells)
    print("\n" + ", ".join(f"{name} {value}" for name, value in facts.items()))


def main() -> int:
    """Measure; return 1 when a contestant gave a wrong result or none."""
    parser = argparse.ArgumentParser(description="jubako against the raw tools and others, one table.")
    parser.add_argument("--only", default="", metavar="CASES", help=f"some of: {','.join(_ALL_KEYS)}")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"rounds of a quick case (default: {_ROUNDS})")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout instead of the table")
    options = parser.parse_args()
    keys = [key for key in options.only.split(",") if key] or list(_ALL_KEYS)
    unknown = sorted(set(keys) - set(_ALL_KEYS))
    if unknown:
        parser.error(f"no case is named {', '.join(unknown)}; there are {', '.join(_ALL_KEYS)}")
    facts = machine()
    rows = measure(keys, max(1, options.rounds))
    if options.json:
        print(json.dumps({"machine": facts, "rows": [row.as_json() for row in rows]}))
    else:
        show(rows, facts)
    return 1 if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
