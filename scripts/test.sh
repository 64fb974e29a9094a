#!/usr/bin/env bash
# Run all tests, one worker a processor, with branch coverage. Arguments replace the default ones of pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -f .coverage .coverage.*
[ $# -gt 0 ] || set -- -q -n auto --dist loadgroup
.venv/bin/python -m coverage run -m pytest "$@"
.venv/bin/python -m coverage combine -q
.venv/bin/python -m coverage report --skip-covered --skip-empty
