# Everything from a fresh clone: `make demo` shows the main job, `make test` checks the whole repository.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-without-ray test-on-ray test-training-on-ray test-fast fix lint types clean

help:
	@echo "make demo   label a generated clip on Ray and name the pictures to open"
	@echo "make test   format check, lint, types, layers, all tests"
	@echo "make fix    format the code"

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rayvos needs Python 3.11 or newer; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(STAMP)
	$(BIN)/rayvos demo demo

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

# Side by side: tests on Ray mostly wait, for processes to start and for those they kill. One thread each: two that
# compute on the same two cores wait for each other's threads, and need half as much CPU again. Each session's output
# comes in one piece when it has ended; descriptor 3 tells meanwhile how far they are.
test test-without-ray test-on-ray test-training-on-ray test-fast: export OMP_NUM_THREADS = 1
test: lint types
	TEST_PROGRESS=3 $(MAKE) --jobs=3 --output-sync=target test-training-on-ray test-on-ray test-without-ray 3>&2

test-without-ray: $(STAMP)
	$(BIN)/python -m pytest -m "not ray"

# About half of the CPU time that tests on Ray take.
TRAINING := tests/training tests/tuning tests/jobs

test-on-ray: $(STAMP)
	$(BIN)/python -m pytest -m ray $(addprefix --ignore=,$(TRAINING))

test-training-on-ray: $(STAMP)
	$(BIN)/python -m pytest -m ray $(TRAINING)

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not ray"

fix: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
