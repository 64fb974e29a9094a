# The two commands of a newcomer are `make run` and `make test`; the rest serves daily work.
.PHONY: help run setup test check lint types docs fuzz bench probe lock generate clean

VENV := .venv/bin

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: setup  ## set up, run the 164 HumanEval solutions in sandboxes, then a hostile program
	$(VENV)/python benchmarks/human_eval.py
	$(VENV)/python benchmarks/hostile.py

setup:  ## system packages, .venv from the lock file, the jubako command
	@scripts/setup.sh

test: setup  ## set up and run all tests, with branch coverage
	@scripts/test.sh

check: setup lint types docs  ## everything CI demands besides the tests

lint:  ## style, layers, module size, generated files
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/lint-imports
	$(VENV)/python scripts/check_modules.py
	$(VENV)/python scripts/gen_schemas.py --check
	$(VENV)/python scripts/gen_sync.py --check
	$(VENV)/python scripts/gen_reference.py --check

types:  ## two type checkers, both strict
	$(VENV)/mypy
	for place in conformance escape unit/guest; do $(VENV)/mypy $$(git ls-files "tests/$$place/*.py") || exit 1; done
	$(VENV)/basedpyright

docs:  ## links of all pages
	$(VENV)/python scripts/check_links.py

fuzz: setup  ## ten million hostile frames against the host's parser
	$(VENV)/python scripts/fuzz_frames.py --frames 10000000

bench: setup  ## jubako against raw bubblewrap and others, one table
	$(VENV)/python benchmarks/run.py

probe: setup  ## containment probes on this machine
	$(VENV)/jubako probe

generate: setup  ## rewrite all generated files
	$(VENV)/python scripts/gen_schemas.py
	$(VENV)/python scripts/gen_sync.py
	$(VENV)/python scripts/gen_reference.py

lock:  ## renew the lock file (needs uv)
	uv pip compile -q pyproject.toml --group dev --extra yaml --extra wasm --extra testing --universal \
	  --generate-hashes --no-header --python-version 3.11 -o requirements/dev.lock

clean:  ## remove what setup and the tools made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist
