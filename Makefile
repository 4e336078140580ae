# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs in .venv.

PYTHON ?= python3
BIN := .venv/bin
DEMO := recipes/digits.py recipes/digits_720_unscaled.py recipes/digits_720.py recipes/digits_720_lamb.py

.PHONY: help install demo test test-slow lint bench clean

help:
	@echo "make install    .venv with the pinned packages of constraints.txt (5.5 GB, about 2 minutes)"
	@echo "make demo       what a large batch costs and what repairs it, on this machine (about 4 minutes)"
	@echo "make test       the tests"
	@echo "make test-slow  the tests that take longer"
	@echo "make lint       ruff and mypy"
	@echo "make bench      speed against hand-written loops and peers; appends to results/"

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lbtrain needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/python -m tools.study $(DEMO) --seeds 5 --launcher deepspeed --ranks 2 --out runs/demo --title "What a large batch costs, and what repairs it"

test: install
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m bench.train

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
