# Set-up and checks for a fresh machine without root: `make demo` and `make test` do everything.
#   PYTHON=python3.12 make test     another interpreter (3.11 or newer)
#   VENV=/tmp/venv make test        another place for the virtual environment

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO   := build/demo
PROMPT ?= Elizabeth
C_DIRS := $(wildcard templates/runtime tests/c)
C_FILES = $(if $(C_DIRS),$(shell find $(C_DIRS) -name '*.[ch]' | sort))

.PHONY: help demo test check format clean distclean

help:
	@echo 'make demo       compile the bundled model, verify the C on this machine, let it speak'
	@echo 'make test       the whole test suite'
	@echo 'make check      lint, formatting and types'
	@echo 'make format     rewrite Python and C in the project style'
	@echo 'make clean      remove builds and caches; make distclean: the environment too'

# One environment, two stamps: the base install is enough for the demo.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/base.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[dev,rv32,compress,onnx,eval]'
	@touch $(VENV)/base.stamp $@

demo: $(VENV)/base.stamp
	$(BIN)/edgec compile --target siracusa -o $(DEMO)
	$(BIN)/edgec verify $(DEMO) --runner host
	$(BIN)/edgec simulate $(DEMO) --prompt "$(PROMPT)" --temperature 0.7 --seed 1

# A process per processor, each with one thread: more would only wait for each other.
test: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(C_FILES),$(BIN)/clang-format --dry-run --Werror $(C_FILES))

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(C_FILES),$(BIN)/clang-format -i $(C_FILES))

clean:
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
