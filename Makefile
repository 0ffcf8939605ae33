# One environment, made here with nothing but Python: `make reproduce` and `make test` work in a fresh clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check
OUT ?= reproduction
JOBS ?= 2
PROGRAMS ?= 5000
INSTANCES ?= 100000
PER_CONE ?= 2000
# where the tests keep what they compiled, for later runs and other clones
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/conservax
# the threads of dense factorisations wait for each other where others keep the cores busy
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help reproduce test test-all test-latest fuzz soundness robustness lint format bench dist clean distclean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

reproduce: $(VENV)/.stamp-reproduce ## Draw the figures of the paper and check its claims (OUT=reproduction, ARGS=--quick)
	$(BIN)/conservax reproduce --out "$(OUT)" $(ARGS)

test: $(VENV)/.stamp-test ## Run the tests and the doctests (JOBS=2, ARGS="-k name")
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-all: ## The tests again as XLA compiles for users, the long fuzzers, the newest JAX: hours
	XLA_FLAGS= $(MAKE) test fuzz
	$(MAKE) soundness robustness test-latest

test-latest: .venv-latest/.stamp-test ## Run the tests against the newest JAX, in an environment of its own
	.venv-latest/bin/python -m pytest -n $(JOBS) $(ARGS)

FUZZED = $(addprefix tests/calculus/test_,operations.py spectra.py domains.py both_sides.py random_ties.py random_nodes.py)
fuzz: $(VENV)/.stamp-test ## Run the calculus on thousands of random programs (PROGRAMS=5000)
	CONSERVAX_PROGRAMS=$(PROGRAMS) $(BIN)/python -m pytest -n $(JOBS) $(FUZZED) $(ARGS)

soundness: $(VENV)/.stamp-test ## Compare certificates with exact arithmetic (INSTANCES=100000)
	$(ONE_THREAD) $(BIN)/python tests/soundness.py $(INSTANCES) $(JOBS)

robustness: $(VENV)/.stamp-test ## Compare the solver of programs with Clarabel (PER_CONE=2000)
	$(ONE_THREAD) PYTHONPATH=tests $(BIN)/python -m programs.robustness $(PER_CONE) $(JOBS)

lint: $(VENV)/.stamp-dev ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

format: $(VENV)/.stamp-dev ## Rewrite the code in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.stamp-bench ## Measure against the peers; writes benchmarks/results.json and docs/benchmarks.md
	$(BIN)/python benchmarks/run.py $(ARGS)

dist: $(VENV)/.stamp-dist ## Build the wheel and the source archive into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

clean: ## Remove what the other targets wrote, but not the environments
	rm -rf reproduction build dist .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the environments and the compiled programs in the user's cache too
	rm -rf $(VENV) .venv-latest $(CACHE)

$(VENV)/bin/python .venv-latest/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "conservax needs Python 3.11 or newer; say which: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(@:/bin/python=)

# A stamp is newer than the two files that decide what is installed, so nothing is installed twice.
$(VENV)/.stamp-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --constraint constraints.txt --editable '.[$*]'
	@touch $@

.venv-latest/.stamp-%: pyproject.toml | .venv-latest/bin/python
	$(PIP) --upgrade --upgrade-strategy eager --editable '.[$*]'
	@touch $@
