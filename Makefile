# Everything a newcomer needs: make run, make test. Everything a developer needs: make check.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help run test chaos bench check upgrade-check format clean node prometheus chromium

help: ## Show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

run: $(VENV)/.run ## Set up and run everything on this machine; ARGS=--once ends after the first order
	@$(BIN)/orderflow up $(if $(shell command -v prometheus),--monitoring) $(ARGS)

test: $(VENV)/.dev node prometheus chromium ## Set up and run all tests
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

chaos: $(VENV)/.dev ## Break a running shop in all ways there are, and count every order; ARGS="--runs 5"
	@$(BIN)/orderflow chaos $(ARGS)

bench: $(VENV)/.bench node ## Measure against Node and stock Python; ROW=name, PAIRS=n, QUICK=1
	@$(BIN)/python -m bench.run $(ROW) $(if $(PAIRS),--pairs $(PAIRS)) $(if $(SIZE),--size $(SIZE)) \
		$(if $(QUICK),--quick) $(if $(LOG_LEVEL),--log-level $(LOG_LEVEL))

upgrade-check: $(VENV)/.dev node ## Run the contract tests on the newest bullmq of PyPI and npm
	tests/interop/upgrade-check

check: $(VENV)/.dev ## Format, lint, types, import rules, dead links
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/check_links.py

format: $(VENV)/.dev ## Rewrite the code in its one format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## Remove what make made, but not the data in .orderflow
	rm -rf $(VENV) tests/interop/node_modules bench/peers/node_modules build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "orderflow needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# pip's own lines are the progress that is shown; what is there already is not worth one.
define install
	@echo "Installing orderflow$(1); the first time takes about a minute"
	@$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.$(1)' \
		| { grep --line-buffered -E '^(Collecting|Installing|Successfully)' || true; }
	@touch $@
endef

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(call install,[sandbox])

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(call install,[dev])

$(VENV)/.bench: $(BIN)/python pyproject.toml constraints.txt
	$(call install,[bench])

# The tests install Node's packages themselves; Node itself comes from the system.
node:
	@command -v npm > /dev/null || { echo "Installing Node.js from the system's packages"; \
		apt-get update -q && apt-get install -y -q nodejs npm; }

# The operators' page is tested in a real browser.
chromium:
	@command -v chromium > /dev/null || { echo "Installing Chromium from the system's packages"; \
		apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }

# Where Prometheus is a package, its service starts with it: the tests run one of their own.
prometheus:
	@{ command -v prometheus && command -v promtool; } > /dev/null || { \
		echo "Installing Prometheus from the system's packages"; \
		apt-get update -q && apt-get install -y -q --no-install-recommends prometheus; \
		service prometheus stop || true; }
