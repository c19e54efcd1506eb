# `make` alone says what there is. ARGS=… passes further arguments on; PYTHON=… names the Python to use.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install serve test check soak format samples system lock clean

ARGS ?=
export PYTHON

TOOLS := .tools/.made
RUN := .venv/.made-run
DEV := .venv/.made-dev
FOUND := docs/results/reliability.jsonl
COMPILED := hatch_build.py $(shell find stat7store storage -name '_*.[ch]')

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: $(DEV) ## Make .venv with the locked dependencies and the project itself

serve: $(RUN) ## Run the server on ./stat7-data and print the page's address
	@exec .venv/bin/stat7store serve $(ARGS)

test: $(DEV) system samples check ## Install all that is needed and run every check and test
	.venv/bin/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(ARGS)

check: $(DEV) ## Check format, lint, types and layers
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports

soak: $(DEV) system samples ## Run the fault plan in full, and write docs/reliability.md
	@rm -f $(FOUND)
	.venv/bin/pytest --soak --timeout=7200 --reliability=$(FOUND) $(ARGS); status=$$?; \
	.venv/bin/python scripts/reliability.py $(FOUND) --write docs/reliability.md && exit $$status

format: $(DEV) ## Format the code and mend what lint can mend
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

samples: $(RUN) ## Fetch the photographs and clips that tests and demos use
	@.venv/bin/python scripts/fetch_samples.py

system: ## Install the Debian packages that the tests use
	@scripts/bootstrap.sh system

lock: $(TOOLS) ## Write the lock files anew (ARGS=--upgrade takes the newest releases)
	scripts/bootstrap.sh lock $(ARGS)

clean: ## Remove what was made, but never stored data
	rm -rf .venv .tools .cache .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist
	find stat7store storage -name '_*.so' -delete
	find . -name __pycache__ -not -path './stat7-data/*' -prune -exec rm -rf {} +

$(TOOLS): requirements/tools.lock scripts/bootstrap.sh
	@echo "Installing the tools into .tools"
	@scripts/bootstrap.sh tools
	@touch $@

$(RUN): pyproject.toml requirements/run.lock requirements/build.lock $(TOOLS) $(COMPILED)
	@echo "Installing the server into .venv"
	@scripts/bootstrap.sh run
	@touch $@

$(DEV): pyproject.toml requirements/dev.lock requirements/build.lock $(TOOLS) $(COMPILED)
	@echo "Installing the server and its developers' tools into .venv"
	@scripts/bootstrap.sh dev
	@touch $(RUN) $@
