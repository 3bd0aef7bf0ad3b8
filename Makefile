# `make` alone says what there is. Everything works in .venv; nothing is installed elsewhere.
PYTHON := .venv/bin/python
READY := .venv/.complete
READY_DEV := .venv/.complete-dev

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev app demo test test-slow test-all reference check lint lock bench gpu-check clean

help:
	@echo "make app     the workbench in the browser (sets everything up the first time)"
	@echo "make demo    the method and its controls on the bundled models, as a table"
	@echo "make test    the tests, the main path in a real browser included; a few minutes"
	@echo "make test-all  the slow ones too: kills, every page in the browser, benchmarks"
	@echo "make check   formatting, lint, the tests"
	@echo "make bench   speed and memory against the plain way; make bench SIZE=small for a quick one"
	@echo "make gpu-check  on a machine with CUDA: kernels, training, 13B -> 7B, against the processor and the limits"
	@echo "make setup   only make or refresh .venv; make setup-dev with what tests need too"
	@echo "make lock    resolve the requirements anew (needs uv)"
	@echo "make clean   remove .venv and the tools' caches; runs in cache/ stay"

$(READY): requirements.lock scripts/setup
	@scripts/setup

$(READY_DEV): requirements.lock requirements-dev.lock scripts/setup
	@scripts/setup dev

setup: $(READY)

setup-dev: $(READY_DEV)

lock:
	@scripts/lock

app: setup
	@$(PYTHON) -m paraknow_core ui

demo: setup
	@$(PYTHON) -m paraknow_core demo

# Without a browser its tests are skipped, except where CI is set: there a missing browser is a failure.
test: MARKS = not slow and not gpu
test-slow: MARKS = slow and not gpu
test-all: MARKS = not gpu
test test-slow test-all: setup-dev
	@scripts/find_browser >/dev/null || [ -z "$$CI" ]
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$(MARKS)" --durations=40

# The tests that need the shared material beside the project; not part of the others.
reference: setup-dev
	@$(PYTHON) -m pytest tests/reference

lint: setup-dev
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@.venv/bin/lint-imports --no-cache --no-logo

check: lint test

bench: setup-dev
	@for name in $(filter-out benchmarks/gpu_check.py,$(wildcard benchmarks/[a-z]*.py)); do \
		$(PYTHON) -m benchmarks.$$(basename $$name .py) $(if $(filter small,$(SIZE)),--small) || exit 1; \
	done

# On a bare machine torch is enough: what else a part needs, it says. At most eight minutes.
gpu-check:
	@$(if $(wildcard $(PYTHON)),$(PYTHON),python3) -m benchmarks.gpu_check $(if $(filter small,$(SIZE)),--device cpu --small)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
