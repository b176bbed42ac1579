# Two commands: `make study` and `make test`. Both work on a machine that has never seen the project.
#
#   PYTHON       interpreter of the virtual environment (3.11 or newer)
#   TORCH_INDEX  extra package index for torch, e.g. PyTorch's CPU or CUDA wheel index; empty: the default index.
#                The tested build is torch 2.13.0 for CPU; CUDA builds of the same version run the same code.
#   JOBS         test files that run side by side
#   COVER        not empty: `make test` also measures the coverage of dihal_core and fails below 90 %
#   PROFILE, BACKBONE, SEED, SET   passed to `dihal study`, e.g. make study SET="sweep.training.max_steps=40"
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH_INDEX ?=
PROFILE ?= quickstart
BACKBONE ?=
SEED ?= 0
SET ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt
HOME_OF_STUDY ?=
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile
COVERAGE := --cov=dihal_core --cov-report=term:skip-covered --cov-fail-under=90
STUDY := $(if $(HOME_OF_STUDY),--home $(HOME_OF_STUDY)) --profile $(PROFILE) --seed $(SEED) $(if $(BACKBONE),--backbone $(BACKBONE)) $(if $(SET),--set $(SET))

.PHONY: help types study test test-slow test-gpu style links audit secrets check bench coverage ci slow-twice quickstart image up down plan install clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^## //p' Makefile

## make study      install and run the quickstart study; prints the answer and where the report is
study: $(STAMP)
	@$(BIN)/dihal study $(STUDY)

## make plan       say what a study will run and why, with bytes and hours
plan: $(STAMP)
	@$(BIN)/dihal plan $(STUDY)

## make test       install and run style, import rules and all fast tests
test: $(STAMP)-test style
	@$(PYTEST) $(if $(COVER),$(COVERAGE))

## make test-slow  crash drills and the end-to-end study with a real server and worker (minutes)
test-slow: $(STAMP)-test
	@$(PIP) -e ".[test,dask,ray,lm-eval]" # without them the tests of clusters and of lm-eval would be skipped
	@$(PYTEST) -m slow

## make test-gpu   tests that need a CUDA device
test-gpu: $(STAMP)-test
	@$(BIN)/python -m pytest -m gpu

## make check      ruff, format, import rules, pyright, links of the docs, dependency audit, secret scan
check: style types links audit secrets

style: $(STAMP)-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYTHONPATH=. $(BIN)/lint-imports

types: $(STAMP)-test
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

links: $(STAMP)-test
	@$(BIN)/python -m pytest tests/test_docs.py

# Says so, and passes, where the advisory database cannot be reached.
audit: $(STAMP)-test
	@$(BIN)/python tests/audit.py

# SHA-256 pins are no secrets, so that detector is off in the baseline; a finding that is none gets the comment
# `pragma: allowlist secret` on its line.
secrets: $(STAMP)-test
	@set -o pipefail; git ls-files -z | xargs -0 -r $(BIN)/detect-secrets-hook --baseline .secrets.baseline && echo "no secrets in tracked files"

## make bench      the benchmarks of corpus, dump, geometry and generation in a short form (minutes); the figures of record are in tests/benchmarks/RESULTS.md
bench: $(STAMP)-test
	@$(PIP) -e ".[test,bench]"
	@PYTHONPATH=. $(BIN)/python -m tests.benchmarks.bench_corpus --megabytes 4 --rounds 2
	@$(BIN)/python tests/benchmarks/bench_dump.py --windows 16 --batch 8 --rounds 1
	@$(BIN)/python tests/benchmarks/bench_geometry.py --widths 576 --threads 1
	@if ls runs/studies/*/hybrid >/dev/null 2>&1; then $(BIN)/python tests/benchmarks/bench_generation.py --home runs \
		--layers 1 --tokens 8 --rounds 3 --seconds 30; else echo "bench_generation: needs a finished study (make study)"; fi

## make coverage   coverage of dihal_core by its own fast tests; fails below 90 %
coverage: $(STAMP)-test
	@$(PYTEST) tests/dihal_core $(COVERAGE)

## make ci         what .ci/run does: check, test, the slow tests and one quickstart, with the minutes so far (44 minutes on two cores)
ci:
	@.ci/run

# A drill that fails is run once more, by itself: the first run names it, and what fails twice fails.
slow-twice: $(STAMP)-test
	@$(PIP) -e ".[test,dask,ray,lm-eval]"
	@$(PYTEST) -m slow -rs; code=$$?; test $$code -eq 1 || exit $$code; \
		echo "== slow tests that failed are run again, by themselves"; \
		$(BIN)/python -m pytest -m slow --last-failed --last-failed-no-failures=none

# Afterwards the plan must find every stage cached.
quickstart: $(STAMP)
	@home=$$(mktemp -d); trap '$(BIN)/dihal down --home '$$home' >/dev/null; rm -rf '$$home EXIT; set -o pipefail; \
		$(MAKE) --no-print-directory study HOME_OF_STUDY=$$home && \
		$(MAKE) --no-print-directory plan HOME_OF_STUDY=$$home && \
		$(BIN)/dihal plan --home $$home $(STUDY) --json | $(BIN)/python tests/all_cached.py

## make image      build the container image and run a smoke study in it (needs a container engine)
image:
	@docker/smoke.sh

## make up         local Prefect server and worker on loopback, everything deployed
up: $(STAMP)
	@$(BIN)/dihal up

## make down       stop them
down: $(STAMP)
	@$(BIN)/dihal down

## make install    only the virtual environment
install: $(STAMP)

$(STAMP):
	@echo "installing into $(VENV) (about two minutes, once)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) -e .
	@rm -f $(VENV)/.installed-* && touch $@

$(STAMP)-test: $(STAMP)
	@$(PIP) -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
