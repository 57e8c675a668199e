# Everything a developer or a first-time user runs. `make up` needs Python ≥ 3.11, make and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup up test check format soak bench bench-gpu clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[instance,dev]'
	touch $@

up: setup
	$(BIN)/headgate up examples/digits/headgate.yaml

test: setup
	$(BIN)/pytest -m 'not soak and not compose'

soak: setup
	$(BIN)/pytest -m soak --timeout 3600

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks

# ResNet-50 on a GPU, served and bare: `make bench-gpu DEVICE=cuda:1`
DEVICE ?= cuda:0
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu --device $(DEVICE)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
