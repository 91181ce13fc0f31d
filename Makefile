# The two commands of the README are `make study` and `make test`; each sets up what it needs.

PYTHON ?= python3
TRIALS ?= 24
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup study test test-all attacks attacks-quick lint clean

help:
	@echo 'make study      set up, then run a study of target/train.py until it holds 24 trials;'
	@echo '                again: resume it (TRIALS=48 for more, Ctrl-C stops)'
	@echo 'make test       set up, then run the tests'
	@echo 'make test-all   the slow tests too'
	@echo 'make attacks    every attack on the score and on the box; writes the table of'
	@echo '                docs/threat-model.md (make attacks-quick: those of CI)'
	@echo 'make lint       ruff and mypy'
	@echo 'make setup      .venv with pinned packages (PYTHON=python3.12 for another Python)'
	@echo 'make clean      remove .venv and what tools leave behind; studies stay'

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt tools/setup.sh
	@PYTHON='$(PYTHON)' tools/setup.sh

study: setup
	@$(BIN)/arrl prepare
	@$(BIN)/arrl run --until $(TRIALS)
	@echo 'arrl is in .venv/bin: `source .venv/bin/activate` puts it on the path.'

test: setup
	$(BIN)/python -m pytest -m 'not slow' --ignore=tests/attacks

test-all: setup
	$(BIN)/python -m pytest --ignore=tests/attacks

attacks: setup
	rm -f runs/attacks.jsonl && mkdir -p runs
	ARRL_ATTACK_RECORDS='$(CURDIR)/runs/attacks.jsonl' $(BIN)/python -m pytest tests/attacks
	$(BIN)/python tools/attack_table.py runs/attacks.jsonl

attacks-quick: setup
	$(BIN)/python -m pytest -m 'not slow' tests/attacks

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
