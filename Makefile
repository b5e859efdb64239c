# Requirements: Python 3.11, git and make; `make lock` also needs uv.
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow test-faults lint audit format bench sweep vaults collect wheel lock

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with the locked dependencies and this package (once)

$(STAMP): requirements.lock pyproject.toml
	@echo "setting up .venv with the locked packages (once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

quickstart: setup ## Train on the starter data and score held-out tasks, in minutes on a laptop
	$(BIN)/python -m mtmarl.train profile=quickstart

test: setup ## Run the tests that take seconds
	$(BIN)/python -m pytest -n 2 --durations=25 --durations-min=5

test-slow: setup ## Run the tests that train something
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 -m slow

test-faults: setup ## Try damaged data, records and archives, and wrong settings, half an hour of computing (ARGS="--share 0.1")
	$(BIN)/python -m tests.faults $(ARGS)

lint: setup ## Check style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

audit: setup ## Refuse stored results that do not compare: terms of cells, first tasks, seeds of headlines
	$(BIN)/python experiment_scripts/audit.py

format: setup ## Apply the formatting and the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Measure speed against the goals, about a quarter of an hour on two cores (ARGS=--quick)
	@for name in update loop host seeds collect skills host_env; do \
	  echo; echo "== bench/$$name.py"; \
	  JAX_COMPILATION_CACHE_DIR= $(BIN)/python bench/$$name.py $(ARGS) || exit 1; \
	done

sweep: setup ## Model size, embed_dim 64 … 768 (SWEEP=model_size PROFILE=cpu|smoke|paper JOBS=1 ARGS=key=value)
	$(BIN)/python -m mtmarl.sweep +sweep=$(or $(SWEEP),model_size) profile=$(or $(PROFILE),cpu) jobs=$(or $(JOBS),1) $(ARGS)

vaults: setup ## Collect vaults of a task set (TASKS=lbf_5 PROFILE=starter|paper ARGS=key=value)
	$(BIN)/python -m mtmarl.collect profile=vaults_$(or $(PROFILE),starter) +tasks=$(or $(TASKS),lbf_5) $(ARGS)

collect: setup ## The vaults and references of a shipped set as they were made (SET=lbf_5 ARGS="vaults=DIR", see the script)
	PYTHON=$(BIN)/python experiment_scripts/collect.sh $(or $(SET),lbf_5) $(ARGS)

wheel: setup ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .

lock: ## Write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate \
	  --no-emit-index-url --extra tensorboard --group dev pyproject.toml -o requirements.lock
