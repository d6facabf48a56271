# Each target makes the environment it needs, in $(VENV).
PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/demo
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed.stamp
# Processes for tests; one thread each, or they get in each other's way.
JOBS ?= 2
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint types audit check figures clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## Simulate, score, pretrain, fine-tune, report: about five minutes
	$(BIN)/poyo-ssl demo --out $(OUT)

test: $(INSTALLED) ## Run the tests and the examples in docstrings
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

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

figures: $(INSTALLED) ## Draw the figures of docs/ that need no training
	$(BIN)/python docs/figures/calibration.py

clean: ## Remove the environment and what runs wrote
	rm -rf $(VENV) runs
