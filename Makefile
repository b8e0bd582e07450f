# `make up` runs Zorya from this checkout; `make test` proves it. Both set up what they need.

VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help up test lint format bench clean

help: ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/'

up: $(VENV)/.for-use ## Set up, start the server with cluster "main" and say how to connect
	@$(BIN)/zorya up

test: lint ## Set up and run every check and test
# Where PYTHONDONTWRITEBYTECODE is set, each of some hundred servers would compile all of it anew.
	@$(BIN)/python -m compileall -q src
	@$(BIN)/python -m pytest tests --ignore=tests/docs --numprocesses=3 --dist=worksteal

lint: $(VENV)/.for-test ## Formatting, lint, types, the contract of the rooms, the docs
	@$(BIN)/ruff format --check --quiet . && echo "format: ok"
	@$(BIN)/ruff check --quiet . && echo "lint: ok"
	@$(BIN)/mypy --no-error-summary && echo "types: ok"
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest tests/docs -q

format: $(VENV)/.for-test ## Put the code into its form
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(VENV)/.for-test ## Measure, as ratios within one run
	@scripts/install-for bench
	@$(BIN)/python -c "import matplotlib" 2>/dev/null || scripts/make-venv $(VENV) "[test,bench]" || true
	@$(BIN)/python -m bench

clean: ## Remove what the other targets made in this checkout
	rm -rf $(VENV) src/zorya/engines/libhandoff.so .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis bench/results tests/clients/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.for-use: pyproject.toml hatch_build.py native/handoff.c scripts/make-venv
	@scripts/make-venv $(VENV) ""
	@touch $@

$(VENV)/.for-test: pyproject.toml hatch_build.py native/handoff.c scripts/make-venv scripts/install-for
	@scripts/install-for test
	@scripts/make-venv $(VENV) "[test]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check mysqlclient 2>/dev/null || echo "mysqlclient cannot be built here: its tests are skipped (Debian: libmariadb-dev, pkg-config)"
	@touch $@ $(VENV)/.for-use
