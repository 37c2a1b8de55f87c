# Every target works on a fresh machine with Python >= 3.10: the first one makes the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MIN := .venv-min/bin
DOORS := .venv-doors/bin
ARGS ?=
# a file's tests stay together: what they share is made once
PARALLEL := --numprocesses 2 --dist loadfile
# the oldest supported Python that runs here, on the path or under pyenv
OLDEST ?= $(shell for v in 3.10 3.11 3.12 3.13 3.14; do \
	for p in python$$v $(HOME)/.pyenv/versions/$$v.*/bin/python; do \
	"$$p" -c "" 2>/dev/null && echo "$$p" && exit; done; done; echo $(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help demo docs test test-min test-doors fuzz check release bench bench-gpu clean

help:  ## Show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch first and alone: a CPU-only or CUDA build that satisfies the pin stays, and brings its triton
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[demo,dev]"
	@touch $@

.venv-min/installed: pyproject.toml constraints-min.txt
	"$(OLDEST)" -m venv --clear .venv-min
	$(MIN)/pip install --quiet --constraint constraints-min.txt torch
	$(MIN)/pip install --quiet --constraint constraints-min.txt --editable ".[demo,dev]"
	@touch $@

demo: $(VENV)/installed  ## Make a PII corpus, train on it, evaluate, save, reload and tag (CPU, minutes)
	$(BIN)/python scripts/demo.py $(ARGS)

test: $(VENV)/installed  ## Run the tests; the ones marked gpu run where there is a CUDA device
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-min: .venv-min/installed  ## Run the tests with the oldest Python and the oldest dependencies
	@$(MIN)/python --version
	@$(MIN)/pip list 2>/dev/null | grep -E "^(torch|transformers|accelerate|datasets|numpy|peft) "
	$(MIN)/python -m pytest $(PARALLEL) $(ARGS)

# each door's packages bring what others can't have: an environment of their own; the page's test
# wants a chromium on the path
.venv-doors/installed: pyproject.toml constraints.txt constraints-doors.txt
	$(PYTHON) -m venv .venv-doors
	$(DOORS)/pip install --quiet --constraint constraints.txt torch
	$(DOORS)/pip install --quiet --constraint constraints-doors.txt \
		--editable ".[audio,demo,dev,genes,presidio,ray,serve,spacy]" mir_eval playwright
	@touch $@

# annotators' servers: an environment each, with the oldest Python, since doccano knows no newer
STUDIOS := .venv-doccano/installed .venv-label-studio/installed
$(STUDIOS): .venv-%/installed: constraints-%.txt
	"$(OLDEST)" -m venv --clear .venv-$*
	.venv-$*/bin/pip install --quiet --constraint $< setuptools $*
	@touch $@

test-doors: .venv-doors/installed $(STUDIOS)  ## Run the tests beside the real packages that people come from
	DOCCANO=.venv-doccano/bin/doccano LABEL_STUDIO=.venv-label-studio/bin/label-studio \
	$(DOORS)/python -m pytest tests/doors $(ARGS)

fuzz: $(VENV)/installed  ## Look for wrong numbers, tracebacks and mixed runs, half an hour long; ARGS="--minutes 5 --seed 1"
	$(BIN)/python tests/fuzz.py $(ARGS)

check: $(VENV)/installed  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/docs: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	@touch $@

docs: $(VENV)/docs  ## Build the site from docs/ and the docstrings into build/site; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs/site . build/site $(ARGS)
	@echo build/site/index.html

# the wheel is tried where nothing of the checkout can be imported
release: $(VENV)/installed  ## Build sdist and wheel; try the wheel in an empty environment
	rm -rf build dist
	$(BIN)/python -m build
	place=$$(mktemp -d) && trap 'rm -rf "$$place"' EXIT && wheel=$$(realpath dist/*.whl) && \
	cp constraints.txt tests/smoke_wheel.py "$$place" && cd "$$place" && \
	$(PYTHON) -m venv venv && venv/bin/pip install --quiet --constraint constraints.txt torch && \
	venv/bin/pip install --quiet --constraint constraints.txt "$$wheel" && \
	venv/bin/python smoke_wheel.py
	@ls -l dist

bench: $(VENV)/installed  ## Time the head on the CPU; one JSON line a measurement
	$(BIN)/python benchmarks/cpu.py --out benchmarks/results/cpu.jsonl $(ARGS)

bench-gpu: $(VENV)/installed  ## Time the dense contract on a GPU: correctness first, then medians
	$(BIN)/python benchmarks/dense.py --out benchmarks/results/dense.jsonl $(ARGS)

clean:  ## Remove the environments and what was built
	rm -rf $(VENV) .venv-min .venv-doors build dist
