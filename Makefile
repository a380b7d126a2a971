# The README's commands. Each makes the environment first where it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
DEMO_ARGS ?=
# Two files of tests at a time: whole jobs wait for Ray's start most of the time. In the order of their names: by
# itself xdist begins with the files of many tests, and has the longest, of a few whole jobs, last, one beside nothing.
TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Tests start many processes: modules are compiled once, as users have it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo up test test-all stack-test check format lock clean

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

## One real tuning job for each of two architectures, and training with what they found.
demo: $(INSTALLED)
	$(BIN)/python -m examples.demo $(DEMO_ARGS)

## A service, a worker and MLflow's pages on this machine, until Ctrl-C.
up: $(INSTALLED)
	$(BIN)/anon-tune up

## At most 6 minutes on 2 cores.
test: $(INSTALLED)
	$(BIN)/python -m pytest $(TWO)

## The slow ones too: whole jobs, faults, a browser, PostgreSQL. At most 25 minutes.
test-all: $(INSTALLED)
	$(BIN)/python -m pytest $(TWO) -m "not short" --durations 25

## docker-compose.yml's services as processes, through a set of faults; a part of test-all. At most 8 minutes.
stack-test: $(INSTALLED)
	$(BIN)/python -m pytest -m "" tests/stack

## Lint, format, types, layers.
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## Write requirements.lock anew from pyproject.toml: the newest versions that fit, torch pinned; and the image's locks.
lock:
	rm -rf .lock-venv build
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check ".[dev]" "setuptools>=77"
	( echo "# Exact versions for 'make install', on Python 3.11 or newer. Made by 'make lock'."; \
	  .lock-venv/bin/python -m pip freeze --all --exclude anon_tune --exclude pip | sed 's/+cpu$$//' ) > requirements.lock
	.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	.lock-venv/bin/uv pip compile --quiet --no-header --no-annotate --generate-hashes --constraint requirements.lock \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --extra postgres --extra mlflow-server \
	  pyproject.toml | $(PYTHON) docker/lock.py
	rm -rf .lock-venv build

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
