# Every target sets up what it needs. PYTHON=python3.12 takes another Python, ARGS="-k pool" goes to pytest.
BIN := .venv/bin
LINT := $(BIN)/ruff check .
TYPES := $(BIN)/mypy
IMPORTS := $(BIN)/lint-imports
TESTS := $(BIN)/python -m pytest $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup run test test-cluster lint types imports bench clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name what; do \
		printf 'make %-12s %s\n' "$$name" "$$what"; done

setup: ## .venv with the tested packages, and the system libraries where that is allowed
	@.ci/setup

run: setup ## the main job: train OMLT-DDPG on the supply chain, evaluate, table and report
	@$(BIN)/solverl train omlt_ddpg_inventory

test: setup ## lint, types, import rules and the tests: all of them, failing if any failed
	@failed=; \
	echo '== lint'; $(LINT) || failed="$$failed lint"; \
	echo '== types'; $(TYPES) || failed="$$failed types"; \
	echo '== imports'; $(IMPORTS) || failed="$$failed imports"; \
	[ -z "$$failed" ] || echo "== failed before the tests:$$failed"; \
	echo '== tests'; $(TESTS) || failed="$$failed tests"; \
	[ -z "$$failed" ]

test-cluster: setup ## every test of clusters: lost nodes, a cut cable between two hosts (as root), submitted jobs
	@$(TESTS) -m '' tests/cluster

lint: setup ## ruff
	@$(LINT)

types: setup ## mypy, strict
	@$(TYPES)

imports: setup ## who may import whom (import-linter)
	@$(IMPORTS)

bench: ## list the benchmarks
	@for file in $$(grep -l __main__ benchmarks/*.py); do \
		printf 'python -m benchmarks.%-16s ' "$$(basename $$file .py)"; \
		sed -n '/^"""/{s/"""//gp;q;}' $$file; done

clean: ## remove .venv and every cache; results stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
