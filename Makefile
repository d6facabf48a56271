# Each target makes the environment it needs, in $(VENV).
PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/demo
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed.stamp
LEGACY_VENV ?= .venv-legacy
LEGACY_INSTALLED := $(LEGACY_VENV)/installed.stamp
# Processes for tests; one thread each, or they get in each other's way.
JOBS ?= 2
LEGACY_TESTS ?= $(addprefix tests/test_,imports.py score.py samplers.py transforms.py zoo.py pipeline.py)
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint types audit check figures clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The previous torch_brain generation cannot share an environment with the current one.
$(LEGACY_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LEGACY_VENV)
	grep -v '^torch_brain==' constraints.txt > $(LEGACY_VENV)/constraints.txt
	$(LEGACY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint $(LEGACY_VENV)/constraints.txt --editable '.[legacy,dev]'
	@touch $@

demo: $(INSTALLED) ## Simulate, score, pretrain, fine-tune, report: about five minutes
	$(BIN)/poyo-ssl demo --out $(OUT)

test: $(INSTALLED) ## Run the tests and the examples in docstrings
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

test-legacy: $(INSTALLED) $(LEGACY_INSTALLED) ## Short runs with torch_brain 0.1, and what passes between it and 0.2
	$(LEGACY_VENV)/bin/python -m pytest -q -n $(JOBS) --dist loadfile $(LEGACY_TESTS)
	POYO_SSL_OTHER_PYTHON=$(abspath $(LEGACY_VENV))/bin/python $(BIN)/python -m pytest -q tests/test_generations.py

test-slow: $(INSTALLED) ## Run the tests that take minutes each
	$(BIN)/python -m pytest -q -m slow

lint: $(INSTALLED) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Check types
	$(BIN)/mypy

audit: $(INSTALLED) ## Look for known vulnerabilities of what is installed; passes offline
	.ci/audit $(VENV)

check: lint types test ## All that continuous integration runs

benchmarks: $(INSTALLED) ## Compare the speed of each part with a peer
	$(BIN)/python -m benchmarks

clean: ## Remove the environment and what runs wrote
	rm -rf $(VENV) $(LEGACY_VENV) runs
