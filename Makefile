# Two commands: `make study` and `make test`. Both work on a machine that has never seen the project.
#
#   PYTHON       interpreter of the virtual environment (3.11 or newer)
#   TORCH_INDEX  extra package index for torch, e.g. PyTorch's CPU or CUDA wheel index; empty: the default index.
#                The tested build is torch 2.13.0 for CPU; CUDA builds of the same version run the same code.
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
STUDY := --profile $(PROFILE) --seed $(SEED) $(if $(BACKBONE),--backbone $(BACKBONE)) $(if $(SET),--set $(SET))

.PHONY: help types study test test-slow test-gpu check up down plan install clean
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
test: $(STAMP)-test check
	@$(BIN)/python -m pytest

## make test-slow  crash drills and the end-to-end study with a real server and worker (minutes)
test-slow: $(STAMP)-test
	@$(BIN)/python -m pytest -m slow

## make test-gpu   tests that need a CUDA device
test-gpu: $(STAMP)-test
	@$(BIN)/python -m pytest -m gpu

## make check      ruff and import-linter
check: $(STAMP)-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYTHONPATH=. $(BIN)/lint-imports

## make types      pyright (fetches node if the machine has none)
types: $(STAMP)-test
	@$(BIN)/pyright

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
