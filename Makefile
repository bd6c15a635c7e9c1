# SPDX-License-Identifier: Apache-2.0
# Few verbs. Each makes the environment that it needs: only make and Python 3.11 or later must be on the machine.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TESTS  ?=
PROCESSES ?= auto

export PIP_DISABLE_PIP_VERSION_CHECK = 1
INSTALL = $(BIN)/python -m pip install --quiet --no-input

# What an installation depends on beside its lock file: dependencies and commands stand in pyproject.toml.
PROJECT = pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo test exhaustive fuzz endurance lint bench conformance lock dist clean sdk-node sdk-go sdk-java images example-sql example-dask

help: ## show this
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.demo ## two hospitals, one model over both, on real patient records (simulated enclave)
	$(BIN)/clf demo

test: $(VENV)/.dev ## the whole test suite; TESTS='tests/wire -k jose' for a part of it, PROCESSES=0 for one process
	@echo "the long form of the endurance tests: make endurance"
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal $(TESTS)

exhaustive: $(VENV)/.dev ## tests that take minutes: every byte of real evidence changed by two masks
	$(BIN)/python -m pytest -n $(PROCESSES) -m exhaustive $(TESTS)

fuzz: $(VENV)/.dev $(VENV)/.fuzz ## hostile bytes for all that is read, and requests made from openapi.yaml; SECONDS=3600 for longer, SEED=1 to repeat
	$(BIN)/python -m tests.fuzz --guided --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.fuzz.openapi --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

endurance: $(VENV)/.dev $(VENV)/.fuzz ## the long forms, some 9 hours; SECONDS=600 for shorter loads and fuzzing
	CLF_ENDURANCE=1 $(BIN)/python -m pytest -s tests/endurance
	$(BIN)/python -m tests.endurance.crowd
	$(BIN)/python -m tests.endurance.mixed --seconds $(or $(SECONDS),3600)
	$(MAKE) fuzz SECONDS=$(or $(SECONDS),3600)

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev ## measurements beside their references; writes build/bench.json; BENCH='--long read32' for parts
	benchmarks/install.sh
	$(BIN)/python -m benchmarks $(BENCH)

sdk-node: ## the Node client: types and tests
	cd sdk/node && npm ci --silent && npm run --silent check && npm test --silent

sdk-go: ## the Go client: format, vet, tests
	sdk/go/test.sh

conformance: $(VENV)/.dev ## the clients of all languages through the same cases; writes build/conformance.json
	$(BIN)/python -m conformance $(CONFORMANCE)

images: $(VENV)/.dev ## the container images built, run and looked into, on a local base; as root, on Debian
	tools/install-image-tools.sh
	$(BIN)/python -m tests.images

example-sql: $(VENV)/.examples ## one SQL query over the files of two owners; ROWS=300000 for less than 3,000,000 visits
	$(BIN)/python examples/sql/run.py --rows $(or $(ROWS),3000000)

example-dask: $(VENV)/.examples ## the same as a Dask DataFrame over four (simulated) enclaves; ROWS=300000 for less than 1,000,000
	$(BIN)/python examples/dask/run.py --rows $(or $(ROWS),1000000)

lock: $(VENV)/.tools ## write requirements/*.lock anew; UPGRADE=1 takes newer versions
	requirements/lock.sh $(VENV)/tools/bin/uv $(if $(UPGRADE),--upgrade)

sdk-java: ## build and test the Java client
	cd sdk/java && { mvn -q -o -B verify >/dev/null 2>&1 || mvn -q -B verify; }

dist: $(VENV)/.dev ## wheels, other clients' archives, bill of materials and checksums, into dist/
	$(BIN)/python tools/dist.py

clean: ## remove the environment and what was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "CLF needs Python 3.11 or later; say which: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The lock files' versions agree, so that both fit into one environment (tests/frame/test_locks.py).
$(VENV)/.demo $(VENV)/.dev $(VENV)/.examples $(VENV)/.fuzz: $(VENV)/.%: requirements/%.lock $(PROJECT) | $(BIN)/python
	$(INSTALL) --require-hashes -r $<
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# What tools/clf.sh runs the checkout with, where nothing else was made.
$(VENV)/.runtime: requirements/runtime.lock | $(BIN)/python
	$(INSTALL) --require-hashes -r $<
	@touch $@

$(VENV)/.tools: requirements/tools.lock | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip install --quiet --require-hashes -r $<
	@touch $@
