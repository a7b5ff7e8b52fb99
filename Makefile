# Every target sets up what it needs; a second run starts at once.
PYTHON ?= python3
BIN := .venv/bin
# Tests of a file stay together, so that what they share is made once, until a process has nothing left to do.
TOGETHER := --numprocesses auto --dist worksteal --durations 20
PROTOS := $(wildcard proto/lensmount/v1/*.proto)

.PHONY: help setup demo test triton test-triton bench soak fuzz chaos lint format constraints clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## Make .venv with everything that development needs (6 GB)

.venv/.ready: pyproject.toml constraints.txt $(PROTOS)
	@echo "Setting up .venv: some minutes and 6 GB, once."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## Train two adapters, stream a video, swap one of them on the way (3 minutes)
	$(BIN)/lensmount demo

test: setup ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" $(TOGETHER)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow $(TOGETHER)

triton: setup ## Install a Triton for the tests into .triton/ (400 MB); where that can not be they skip
	@PYTHON=$(BIN)/python tests/install-triton || [ $$? -eq 3 ]

test-triton: triton ## Run the tests against a real Triton alone
	OMP_NUM_THREADS=1 $(BIN)/pytest -m triton

bench: setup ## Measure what this machine holds, beside timm and PEFT (minutes)
	$(BIN)/lensmount bench engine
	$(BIN)/lensmount bench swap
	$(BIN)/lensmount bench capacity
	$(BIN)/lensmount bench pipeline
	$(BIN)/lensmount bench wire
	$(BIN)/lensmount bench train

soak: setup ## Let eight cameras fail in turn for SECONDS (600)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.soak --seconds $(or $(SECONDS),600)

fuzz: setup ## Judge CASES (1000000) damaged packages: each is refused or fits
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzzing --cases $(or $(CASES),1000000) --first $(or $(FIRST),0)

chaos: setup ## Kill a registry's processes KILLS (1000) times at random, and at every step
	OMP_NUM_THREADS=1 LENSMOUNT_KILLS=$(or $(KILLS),1000) $(BIN)/pytest --numprocesses auto tests/server/registry/test_crashes.py

lint: setup ## Check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: ## Pin anew what pip resolves today
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --editable '.[dev]'
	$(BIN)/pip freeze --exclude-editable > constraints.txt
	@touch .venv/.ready

clean: ## Remove .venv, .triton, caches and what demos and training wrote
	rm -rf .venv .triton .mypy_cache .pytest_cache .ruff_cache .import_linter_cache demo-out runs
