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

.PHONY: demo test check lint types imports docs install clean

install: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	@start=$$(date +%s); \
	 $(PYTHON) -m venv $(VENV) && \
	 $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]' && \
	 echo "installed in $$(( $$(date +%s) - start )) s" && touch $@

demo: install
	@$(BIN)/python -m torchbonsai demo --out $(OUT)/demo

test: install
	$(BIN)/python -m pytest tests -n $(WORKERS)

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

docs: install
	$(BIN)/python -m pytest README.md docs src -p no:cacheprovider

check: lint types imports test docs

clean:
	rm -rf $(VENV) build dist src/*.egg-info
