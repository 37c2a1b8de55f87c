# Every target works on a fresh machine with Python >= 3.10: the first one makes the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# a file's tests stay together: what they share is made once
PARALLEL := --numprocesses 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-min check bench bench-gpu clean

help:  ## Show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch first and alone: a CPU-only or CUDA build that satisfies the pin stays, and brings its triton
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[demo,dev]"
	@touch $@

demo: $(VENV)/installed  ## Make a PII corpus, train on it, evaluate, save, reload and tag (CPU, minutes)
	$(BIN)/python scripts/demo.py $(ARGS)

test: $(VENV)/installed  ## Run the tests; the ones marked gpu run where there is a CUDA device
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-min:  ## Run the tests with the oldest supported version of every dependency
	$(PYTHON) -m venv .venv-min
	.venv-min/bin/pip install --quiet --constraint constraints-min.txt torch
	.venv-min/bin/pip install --quiet --constraint constraints-min.txt --editable ".[demo,dev]"
	.venv-min/bin/python -m pytest $(PARALLEL) $(ARGS)

check: $(VENV)/installed  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed  ## Time the head on the CPU; one JSON line a measurement
	$(BIN)/python benchmarks/cpu.py --out benchmarks/results/cpu.jsonl $(ARGS)

bench-gpu: $(VENV)/installed  ## Time the dense contract on a GPU: correctness first, then medians
	$(BIN)/python benchmarks/dense.py --out benchmarks/results/dense.jsonl $(ARGS)

clean:  ## Remove the environments
	rm -rf $(VENV) .venv-min
