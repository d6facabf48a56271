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
LEGACY_TESTS ?= $(addprefix tests/test_,imports.py score.py samplers.py transforms.py zoo.py pipeline.py weights.py)
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
DOCS_INSTALLED := $(VENV)/docs-installed.stamp
PACKAGE_VENV ?= .venv-package

.PHONY: help demo test test-legacy test-masks legacy-environment test-slow lint types audit check benchmarks docs docs-figures \
	package package-test clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

# The previous torch_brain generation cannot share an environment with the current one.
$(LEGACY_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LEGACY_VENV)
	grep -v '^torch_brain==' constraints.txt > $(LEGACY_VENV)/constraints.txt
	$(LEGACY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint $(LEGACY_VENV)/constraints.txt --editable '.[legacy,dev]'
	@touch $@

demo: $(INSTALLED) ## Simulate, score, pretrain, fine-tune, report: a few minutes
	$(BIN)/poyo-ssl demo --out $(OUT)

test: $(INSTALLED) ## Run the tests and the examples in docstrings
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

legacy-environment: $(LEGACY_INSTALLED)

test-legacy: $(INSTALLED) $(LEGACY_INSTALLED) ## Short runs with torch_brain 0.1, and what passes between it and 0.2
	$(LEGACY_VENV)/bin/python -m pytest -q -n $(JOBS) --dist loadfile $(LEGACY_TESTS)
	POYO_SSL_OTHER_PYTHON=$(abspath $(LEGACY_VENV))/bin/python $(BIN)/python -m pytest -q tests/test_generations.py

# Apart from the environment: on import xformers warns of every torch but the one that it was built for.
XFORMERS := $(VENV)/xformers

$(XFORMERS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps \
		--target $@ xformers

test-masks: $(XFORMERS) ## Compare the masks of packed attention with those of xformers, on the CPU
	PYTHONPATH=$(XFORMERS) $(BIN)/python -c 'import xformers.ops.fmha.attn_bias'  # or the test would skip
	PYTHONPATH=$(XFORMERS) $(BIN)/python -m pytest -q -n 0 tests/test_packed_attention.py

test-slow: $(INSTALLED) ## Run the tests that take minutes each
	$(BIN)/python -m pytest -q -m slow

lint: $(INSTALLED) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Check types
	$(BIN)/mypy

audit: $(INSTALLED) ## Look for known vulnerabilities of what is installed; passes offline
	.ci/audit $(VENV)

check: lint types test ## Style, types and tests

benchmarks: $(INSTALLED) ## Compare the speed of each part with a peer
	$(BIN)/python -m benchmarks

docs: $(DOCS_INSTALLED) ## Build the site in docs/_build/html; notebooks are run, warnings are errors
	$(BIN)/sphinx-build --fail-on-warning --keep-going --jobs 2 --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-figures: $(INSTALLED) ## Draw the pictures of the pages that need no recordings
	$(BIN)/python docs/figures/method.py
	$(BIN)/python docs/figures/evidence.py
	$(BIN)/python docs/figures/architecture.py

package: $(DOCS_INSTALLED) ## Build and check the wheel and the source distribution
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

package-test: package ## Install the wheel with its base dependencies alone, and run a command of it
	$(PYTHON) -m venv --clear $(PACKAGE_VENV)
	$(PACKAGE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd $(PACKAGE_VENV) && bin/poyo-ssl simulate recordings --recordings 1 --units 8 --minutes 4
	cd $(PACKAGE_VENV) && bin/poyo-ssl score recordings --out table.csv
	cd $(PACKAGE_VENV) && bin/poyo-ssl show model

clean: ## Remove the environment and what runs wrote
	rm -rf $(VENV) $(LEGACY_VENV) $(PACKAGE_VENV) runs dist docs/_build docs/reference/made
