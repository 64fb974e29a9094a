#!/usr/bin/env bash
# Run all tests, one worker a processor, with branch coverage. With arguments: just those, given to pytest.
#
# The broken drivers run apart and unmeasured: each of them goes through the conformance suite once more,
# which covers nothing new and would be the slowest part by far under the tracer.
set -euo pipefail
cd "$(dirname "$0")/.."
broken=tests/conformance/test_broken_drivers.py
rm -f .coverage .coverage.*
if [ $# -gt 0 ]; then
  exec .venv/bin/python -m pytest "$@"
fi
.venv/bin/python -m coverage run -m pytest -q -n auto --dist loadgroup --ignore "$broken"
.venv/bin/python -m coverage combine -q
.venv/bin/python -m coverage report --skip-covered --skip-empty
.venv/bin/python -m pytest -q -n auto "$broken"
