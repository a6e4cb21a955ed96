# Everything a newcomer needs: make run, make test. Everything a developer needs: make check.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# What the tests need of the system.
SYSTEM := node prometheus chromium balancers pgbouncer

.PHONY: help run test coverage chaos bench check docs dist sbom audit lock upgrade-check format clean $(SYSTEM)

help: ## Show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

run: $(VENV)/.run ## Set up and run everything on this machine; ARGS=--once ends after the first order
	@$(BIN)/orderflow up $(if $(shell command -v prometheus),--monitoring) $(ARGS)

test: $(VENV)/.dev $(SYSTEM) ## Set up and run all tests; REDIS_SERVER=a/valkey-server tries that one
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Programs that tests start get an environment without what coverage would look for: Python tells each.
MEASURES = $(wildcard $(VENV)/lib/python3*/site-packages)/orderflow-coverage.pth
coverage: $(VENV)/.dev $(SYSTEM) ## Run all tests, and list the lines and branches that none of them takes
	@rm -rf build/coverage && mkdir -p build/coverage
	@echo "import os, coverage; os.environ.update(COVERAGE_PROCESS_START='$(CURDIR)/pyproject.toml'," \
		"COVERAGE_FILE='$(CURDIR)/build/coverage/data'); coverage.process_startup()" > $(MEASURES)
	-@trap 'rm $(MEASURES)' EXIT; $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)
	@$(BIN)/coverage combine -q --data-file build/coverage/data build/coverage
	@$(BIN)/coverage report --data-file build/coverage/data

chaos: $(VENV)/.dev ## Break a running shop in all ways there are, and count every order; ARGS="--runs 5"
	@$(BIN)/orderflow chaos $(ARGS)

bench: $(VENV)/.dev node ## Measure against Node and stock Python; ROW=name, PAIRS=n, QUICK=1
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

docs: $(VENV)/.dev ## Build the documentation as a site, in build/site, and look for dead links in it
	@$(BIN)/python docs/gather.py build/pages
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@$(BIN)/python tests/check_site.py build/site

# The wheel is built from the sdist, as whoever takes that alone will do.
dist: $(VENV)/.dev ## Build what is released, in dist: the sdist, and the wheel
	@rm -rf dist
	@$(BIN)/uv build --quiet --python $(BIN)/python --no-build-isolation --out-dir dist
	@ls dist

sbom: dist ## Write down what an installed orderflow consists of, as CycloneDX, in build
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/shipped
	@$(BIN)/uv pip install --quiet --python build/shipped --require-hashes -r requirements/app.txt
	@$(BIN)/uv pip install --quiet --python build/shipped --no-deps dist/*.whl
	@$(BIN)/python tests/sbom.py build/shipped/bin/python $$(ls dist/*.tar.gz | sed 's|dist/\(.*\)\.tar\.gz|build/\1.cdx.json|')

audit: $(VENV)/.tools ## Look for known vulnerabilities of what is pinned; needs the Internet
	@tests/audit

lock: $(VENV)/.tools ## Pin what pyproject.toml asks for, with hashes; ARGS=--upgrade for newer ones
	@$(call pin,dev,--all-extras)
	@$(call pin,app,--extra otel --extra stripe -c requirements/dev.txt)
	@$(call pin,sandbox,--extra sandbox -c requirements/dev.txt)
	@$(call pin,build,--group build -c requirements/dev.txt)
	@$(call pin,tools,--group tools)

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
PIP := pip install --disable-pip-version-check
SHOW := { grep --line-buffered -E '^(Collecting|Installing|Successfully)' || true; }

# What is fetched must have the hash that is written down. Our own code has none: it goes in last,
# with nothing left to fetch.
define install
	@echo "Installing requirements/$(1).txt; the first time takes about a minute"
	@$(BIN)/$(PIP) --require-hashes -r requirements/build.txt -r requirements/$(1).txt | $(SHOW)
	@$(BIN)/$(PIP) --no-deps --no-build-isolation -e . | $(SHOW)
	@touch $@
endef

# For every system and every Python that is supported, not only for those of whoever runs it.
define pin
$(VENV)/tools/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command 'make lock' $(if $(findstring group,$(2)),,pyproject.toml) \
	$(2) $(ARGS) -o requirements/$(1).txt
endef

$(VENV)/.run: $(BIN)/python pyproject.toml requirements/build.txt requirements/sandbox.txt
	$(call install,sandbox)

$(VENV)/.dev: $(BIN)/python pyproject.toml requirements/build.txt requirements/dev.txt
	$(call install,dev)

# Apart, so that what they need has no say in what is pinned.
$(VENV)/.tools: $(BIN)/python requirements/tools.txt
	@echo "Installing requirements/tools.txt"
	@$(BIN)/python -m venv $(VENV)/tools
	@$(VENV)/tools/bin/$(PIP) --require-hashes -r requirements/tools.txt | $(SHOW)
	@touch $@

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

# Both start themselves where they are packages: the tests run those of deploy/, on ports of their own.
balancers:
	@PATH=$$PATH:/usr/sbin; { command -v haproxy && command -v nginx; } > /dev/null || { \
		echo "Installing HAProxy and nginx from the system's packages"; \
		apt-get update -q && apt-get install -y -q --no-install-recommends haproxy nginx-light; \
		service haproxy stop || true; service nginx stop || true; }

# As they do, it starts itself; the tests run one for each way in which it can be set.
pgbouncer:
	@PATH=$$PATH:/usr/sbin; command -v pgbouncer > /dev/null || { \
		echo "Installing PgBouncer from the system's packages"; \
		apt-get update -q && apt-get install -y -q --no-install-recommends pgbouncer; \
		service pgbouncer stop || true; }
