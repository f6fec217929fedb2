# make demo [REGISTRY=databricks] | make ui | make test | make test-floors | make check | make bench
PYTHON ?= python3
BIN := .venv/bin
DEMO_HOME ?= .demo
# mlflow: an MLflow server; databricks: Unity Catalog in an emulated workspace
REGISTRY ?= mlflow
comma := ,
# Bytecode is written when a module is first imported: compiling all of them beforehand takes longer than it saves.
unexport PYTHONDONTWRITEBYTECODE
# Processes of `make test`; each has servers of its own.
TEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo ui test test-floors check format soak bench clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# Called with the extra and the file that says that it is there.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing $(2) into .venv ($(3)) ..."
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(1)]'
	@touch $@
endef

# All that the demo needs.
.venv/demo: pyproject.toml constraints.txt
	$(call install,demo,Airflow$(comma) MLflow and PostgreSQL,0.9 GB)

# And all that tests, checks and benchmarks need: Spark, a browser's driver, linters, types.
.venv/installed: pyproject.toml constraints.txt
	$(call install,dev,Airflow$(comma) MLflow$(comma) Spark and the tools for tests,1.7 GB)
	@touch .venv/demo

demo: .venv/demo ## Run the story on a local MLflow server and Airflow, no account needed
	@$(BIN)/python -m scripts.demo --home "$(DEMO_HOME)" --registry "$(REGISTRY)"

ui: .venv/demo ## Leave Airflow and MLflow running, with the example Dags loaded
	@$(BIN)/python -m scripts.demo --home "$(DEMO_HOME)" --registry "$(REGISTRY)" --ui

test: .venv/installed ## Run all tests but the soaks
	$(BIN)/python -m pytest -m "not soak" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-floors: .venv/installed ## Run them on Airflow 3.1 with the oldest versions, and on Airflow 3.2
	$(BIN)/python -m scripts.floors -m "not soak" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

soak: .venv/installed ## Run the long tests
	$(BIN)/python -m pytest -m soak --timeout 7200

check: .venv/installed ## Format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed ## Format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed ## Run every benchmark and print its ratio
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## Remove what make built
	rm -rf .venv .demo .floors .pytest_cache .mypy_cache .ruff_cache
