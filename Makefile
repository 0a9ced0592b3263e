# Two commands do everything on a fresh machine: `make demo` and `make test`.
# The environment lives in .venv and is remade when pyproject.toml or constraints.txt change;
# a stamp is written only after an install that finished, so an interrupted one is repeated.

PYTHON ?= python3
VENV   ?= .venv
STAMPS := $(VENV)/.stamps
BIN    := $(VENV)/bin
DEMO   ?= demo
JOBS   ?= 2
MINUTES ?= 20
TARGET  ?= tiff
INPUTS := pyproject.toml constraints.txt
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test lint format bench soak fuzz fuzz-guided audit reliability clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    environment, then weights, training, prediction and report on the sample (CPU, minutes)"
	@echo "make test    environment, then lint, types and tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   every benchmark, JSON into benchmarks/results"
	@echo "make soak    the long property and kill tests;  make fuzz   long fuzzing (both: MINUTES=20)"
	@echo "make fuzz-guided   coverage-guided fuzzing of one reader with atheris (TARGET=tiff MINUTES=20)"
	@echo "make audit   the installed packages against known advisories"
	@echo "make reliability   audit and fault tests; these, soak and fuzz are told in docs/reliability.md"

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "unet2015 needs Python 3.11 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "this Python has no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "creating $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) --upgrade pip
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/main: $(STAMPS)/venv $(INPUTS)
	@echo "installing unet2015 and its libraries into $(VENV) (once; a minute or two) ..."
	@$(PIP) --editable .
	@touch $@

$(STAMPS)/test: $(STAMPS)/main
	@echo "installing the test tools ..."
	@$(PIP) --group test --group lint
	@touch $@

$(STAMPS)/bench: $(STAMPS)/test
	@echo "installing the benchmarks' rivals ..."
	@$(PIP) --group bench
	@touch $@

demo: $(STAMPS)/main
	$(BIN)/unet2015 demo --out $(DEMO) --overwrite

lint: $(STAMPS)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(JOBS) -m "not soak"

format: $(STAMPS)/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMPS)/bench
	$(BIN)/python -m benchmarks

soak: $(STAMPS)/test
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --jobs $(JOBS)

fuzz: $(STAMPS)/test
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --record

# atheris has no wheels for every Python: where it cannot be had, this says so and does nothing.
fuzz-guided: $(STAMPS)/test
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) --only-binary :all: atheris || \
	  { echo "SKIPPED: atheris cannot be installed for $$($(BIN)/python --version)" >&2; exit 0; }; \
	$(BIN)/python -c 'import atheris' 2>/dev/null && \
	$(BIN)/python -m tests.fuzz.atheris_target $(TARGET) --minutes $(MINUTES)

audit: $(STAMPS)/test
	$(BIN)/python -m tests.audit

reliability: $(STAMPS)/test
	-$(BIN)/python -m tests.audit --record
	$(BIN)/python -m tests.faults.reliability -- -n $(JOBS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
