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

# Most tests wait most of the time, so they run beside each other; those that measure time or
# processors (marked `alone`) come after them, with the machine to themselves.
SHORT := not soak and not compose
test: setup
	@beside=passed; alone=passed; \
	echo '== tests that may run beside each other'; \
	$(BIN)/pytest -m '$(SHORT) and not alone' -n 3 --dist loadfile || beside=FAILED; \
	echo '== tests that measure, one after the other'; \
	$(BIN)/pytest -m '$(SHORT) and alone' || alone=FAILED; \
	echo "== beside each other: $$beside; one after the other: $$alone"; \
	[ "$$beside $$alone" = 'passed passed' ]

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
