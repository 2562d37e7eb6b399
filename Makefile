# `make help` lists the targets. Every target installs first what is missing.
SHELL := /bin/bash
VENV := .venv
STAMP := $(VENV)/.installed
# Each test takes one thread. A file's tests stay together, because they share what they set up.
SIDE_BY_SIDE := --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow fuzz check lint format clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## install everything into .venv (PYTHON=... chooses the interpreter)

# An interpreter that is named is used, also where another one's environment is there.
ifeq ($(origin PYTHON),command line)
$(STAMP): FORCE
endif

$(STAMP): setup.cfg constraints.txt pyproject.toml tools/install.sh
	@PYTHON="$(PYTHON)" tools/install.sh

demo: $(STAMP) ## two small searches, the ensemble and its report on built-in images, offline
	@tools/demo.sh

test: $(STAMP) ## run the fast tests
	$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE)

test-slow: $(STAMP) ## run all tests, the slow ones too
	$(VENV)/bin/python -m pytest --slow $(SIDE_BY_SIDE)

fuzz: $(STAMP) ## give the readers 100,000 broken files (INPUTS=... and SEED=... for others)
	$(VENV)/bin/python -m tests.fuzz --inputs $(or $(INPUTS),100000) --seed $(or $(SEED),0)

check: lint ## ruff, mypy and the import rules
	$(VENV)/bin/python -m pytest --quiet tests/test_architecture.py

lint: $(STAMP) ## ruff and mypy alone
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy --num-workers auto

format: $(STAMP) ## let ruff sort the imports and lay out the code
	$(VENV)/bin/ruff check --fix --select I
	$(VENV)/bin/ruff format

clean: ## remove the virtual environment and all caches; data/ and studies/ stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -type d -name __pycache__ -prune -exec rm -rf {} +
