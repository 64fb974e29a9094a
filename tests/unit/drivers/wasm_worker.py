"""Runs one program by the worker's own code, in an interpreter that has nothing of jubako: prints how it ended.

Arguments: the directory of the worker's package, its settings as JSON, the working directory, the program's words.
"""

from __future__ import annotations

import importlib
import json
import os
import sys


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    settings, programs, run = (importlib.import_module(f"worker.{name}") for name in ("settings", "programs", "run"))
    engine = programs.Engine(settings.Settings(json.loads(sys.argv[2])))
    outcome = run.run(engine, sys.argv[4:], {"A": "1"}, sys.argv[3])
    os.write(2, json.dumps([outcome.code, list(outcome.limits), outcome.text]).encode())
    # As the worker does: threads of the library must not see the interpreter end.
    os._exit(0)


main()
