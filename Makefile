# make demo      a synthetic log of five days, trained on two ranks; installs what a run needs, into .venv
# make systems   a synthetic log, and every run file of launch/configs/systems trained on it, one after the other
# make setup     .venv with everything in it, .venv/bin/genctr too; again only when a pinned version changed
# make test      the default test suite
# make test-all  that and the slow tests: all that need no GPU
# make lint      ruff and mypy
#
# PYTHON=FILE says which Python makes .venv. VENV=DIR uses an environment of your own, and installs nothing into it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: setup runtime demo systems test test-all lint

# OpenMP threads that spin while they wait make two ranks on two cores up to 20 times slower.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := passive

DEMO_ROWS ?= 60000
SYSTEMS_ROWS ?= 40000

NAMES := python3 python3.11 python3.12 python3.13
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(firstword $(foreach name,$(NAMES),$(shell $(name) -c '$(NEW_ENOUGH)' 2>/dev/null && echo $(name))))
endif

ifeq ($(origin VENV),command line)
setup runtime:
else
override VENV := .venv
setup: .venv/.dev
runtime: .venv/.runtime
endif

# Of what pip says: the large files as it gets them, and errors. Its warnings (where scripts go, that it is root) are not for users.
PIP := .venv/bin/python -m pip --disable-pip-version-check install --no-warn-script-location --root-user-action ignore
LARGE := awk '/(Downloading|Using cached) .* MB\)/ { print "  " $$0; fflush() }'
QUIETLY := 2> >(awk '!/^(WARNING|DEPRECATION|\[notice\])/ { print; fflush() }' >&2) | $(LARGE) >&2

.venv/.runtime: pyproject.toml tools/fbgemm-gpu-shim/pyproject.toml
	@'$(or $(PYTHON),python3)' -c '$(NEW_ENOUGH)' || { \
	    echo 'make setup needs Python 3.11 or newer, which is not: $(or $(PYTHON),$(NAMES)). Say where one is: make setup PYTHON=FILE' >&2; \
	    exit 1; }
	@echo 'setting up .venv with what a run needs, about a minute' >&2
	@rm -f $@ .venv/.dev
	@# Some systems split ensurepip from Python: then the pip next to that Python installs one.
	@'$(PYTHON)' -m venv .venv >/dev/null || { \
	    '$(PYTHON)' -m venv --clear --without-pip .venv; \
	    '$(PYTHON)' -m pip --python .venv/bin/python install --quiet pip; }
	@$(PIP) --use-pep517 ./tools/fbgemm-gpu-shim --editable . $(QUIETLY); echo "set up in $$SECONDS s" >&2
	@touch $@

.venv/.dev: .venv/.runtime
	@echo 'adding what tests and checks need' >&2
	@$(PIP) --use-pep517 ./tools/fbgemm-gpu-shim --editable '.[dev]' $(QUIETLY); echo "added in $$SECONDS s" >&2
	@touch $@

demo: runtime
	@$(VENV)/bin/genctr synth --out runs/demo-log --days 5 --rows $(DEMO_ROWS) --seed 2026; echo "log made in $$SECONDS s" >&2
	@$(VENV)/bin/genctr train launch/configs/demo.yaml --out runs/demo; echo "trained and scored in $$SECONDS s" >&2

SYSTEMS = $(filter-out %.schema.yaml,$(wildcard launch/configs/systems/*.yaml))

runs/systems-log/synthetic.json: | runtime
	@# What an interrupted one has left is not a part of this one.
	@rm -rf runs/systems-log
	@$(VENV)/bin/genctr synth --out runs/systems-log --days 5 --rows $(SYSTEMS_ROWS) --seed 2026 --events; echo "log made in $$SECONDS s" >&2

systems: runtime runs/systems-log/synthetic.json
	@at=0; for file in $(SYSTEMS); do \
	    at=$$((at + 1)); echo "$$at of $(words $(SYSTEMS)): $$file, after $$SECONDS s" >&2; \
	    $(VENV)/bin/genctr train $$file --out runs/systems/$$(basename $$file .yaml); \
	done; echo "trained and scored in $$SECONDS s" >&2

TESTS := $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: setup
	$(TESTS) -m 'not slow and not gpu'

test-all: setup
	$(TESTS) -m 'not gpu'

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
