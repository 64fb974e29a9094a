#!/usr/bin/env bash
# Run all tests on two workers with branch coverage. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -f .coverage .coverage.*
.venv/bin/python -m coverage run -m pytest "$@"
.venv/bin/python -m coverage combine -q
.venv/bin/python -m coverage report --skip-covered --skip-empty
