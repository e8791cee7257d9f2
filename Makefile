# make setup   .venv with everything in it, .venv/bin/genctr too; again only when a pinned version changed
# make demo    a synthetic log of five days, trained on two ranks
# make test    the default test suite
# make lint    ruff and mypy
#
# PYTHON=FILE says which Python makes .venv. VENV=DIR uses an environment of your own, and installs nothing into it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: setup demo test lint

# OpenMP threads that spin while they wait make two ranks on two cores up to 20 times slower.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := passive

DEMO_ROWS ?= 60000

NAMES := python3 python3.11 python3.12 python3.13
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach name,$(NAMES),$(shell $(name) -c '$(NEW_ENOUGH)' 2>/dev/null && echo $(name))))

ifeq ($(origin VENV),command line)
setup:
else
override VENV := .venv
setup: .venv/.up-to-date
endif

.venv/.up-to-date: pyproject.toml tools/fbgemm-gpu-shim/pyproject.toml
	@'$(or $(PYTHON),python3)' -c '$(NEW_ENOUGH)' || { \
	    echo 'make setup needs Python 3.11 or newer, which is not: $(or $(PYTHON),$(NAMES)). Say where one is: make setup PYTHON=FILE' >&2; \
	    exit 1; }
	@echo 'setting up .venv, about a minute' >&2
	@rm -f $@
	@# Some systems split ensurepip from Python: then the pip beside that Python installs one.
	@'$(PYTHON)' -m venv .venv >/dev/null || { \
	    '$(PYTHON)' -m venv --clear --without-pip .venv; \
	    '$(PYTHON)' -m pip --python .venv/bin/python install --quiet pip; }
	.venv/bin/python -m pip install --quiet --use-pep517 ./tools/fbgemm-gpu-shim --editable '.[dev]'
	@touch $@

demo: setup
	$(VENV)/bin/genctr synth --out runs/demo-log --days 5 --rows $(DEMO_ROWS) --seed 2026
	$(VENV)/bin/genctr train launch/configs/demo.yaml --out runs/demo

test: setup
	$(VENV)/bin/python -m pytest -m 'not slow and not gpu' --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
