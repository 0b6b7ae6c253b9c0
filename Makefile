# Two commands for a newcomer: `make demo` and `make test`. `make check` is what CI runs.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
OUT ?= bonsai-out
WORKERS ?= 2
# The real data sets stand beside some checkouts; tests and benchmarks that need them skip where they do not.
ifneq ($(wildcard ../shared/data/manifest.json),)
export TORCHBONSAI_DATA ?= $(abspath ../shared/data)
endif
# One thread a process: two processes with two threads each on two cores wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: install demo test docs check lint types imports clean

install: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	@echo "installing into $(VENV); PyTorch is the large part, and on Linux PyPI has its CUDA build (see the README)"
	@start=$$(date +%s); \
	 $(PYTHON) -m venv $(VENV) && \
	 $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]' && \
	 echo "installed in $$(( $$(date +%s) - start )) s" && touch $@

demo: install
	@$(BIN)/python -m torchbonsai demo --out $(OUT)/demo

# Tests, and every example of the documentation; the examples of one file stay in one process.
test: install
	$(PYTEST) tests README.md docs src -n $(WORKERS)

docs: install
	$(PYTEST) README.md docs src

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

check: lint types imports test

clean:
	rm -rf $(VENV) build dist src/*.egg-info
