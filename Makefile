# Everything a developer or a first-time user runs. `make up` needs Python ≥ 3.11, make and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
STAMP := $(VENV)/.installed
# What is edited is not compiled (`make compiled`, `make dist`).
PIP := HEADGATE_COMPILE=0 $(BIN)/pip install --disable-pip-version-check --constraint constraints.txt

# torch for CPUs is a tenth of the download; it is what PyPI has for macOS anyway. Another index,
# or none, by hand: `make up TORCH_INDEX=`.
HAS_GPU := $(shell nvidia-smi -L 2>/dev/null | grep -m1 -o '^GPU')
IS_LINUX := $(filter Linux,$(shell uname -s))
TORCH_INDEX ?= $(if $(HAS_GPU),,$(if $(IS_LINUX),https://download.pytorch.org/whl/cpu))

.PHONY: setup up hosts test check format soak dist docs compiled test-compiled bench bench-gpu clean

setup: $(STAMP)

# What it takes to look: the gateway, instances, torch, and what the examples read.
$(RUNTIME): pyproject.toml constraints.txt
	@echo '== making $(VENV)'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  f"Headgate needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Name another: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@echo '== 1 of 2: torch$(if $(TORCH_INDEX), for CPUs: no GPU is here)'
	@$(PIP) --no-deps $(if $(TORCH_INDEX),--retries 2 --extra-index-url $(TORCH_INDEX)) \
	  "$$(grep '^torch==' constraints.txt)"
	@echo '== 2 of 2: Headgate and what the examples need'
	@$(PIP) --editable '.[instance,examples]'
	@touch $@

# And what it takes to change it: tests, types, lint.
$(STAMP): $(RUNTIME)
	@echo '== what tests and checks need'
	@$(PIP) --editable '.[instance,examples,dev]'
	@touch $@

up: $(RUNTIME)
	@$(BIN)/headgate up examples/digits/headgate.yaml

# Three hosts in network namespaces, to take apart: needs etcd, and nobody's privilege where
# namespaces of users are allowed (root's elsewhere).
hosts: $(RUNTIME)
	@$(BIN)/python -m examples.hosts

# Most tests share the machine with each other: two more at a time than most have processors, as many
# wait. Those that keep moments or compare two servers (marked `paced`) mostly wait, and come next;
# those that take the whole machine or measure rates (marked `alone`) last, one after the other.
SHORT := not soak and not compose
test: setup
	@failed=; \
	run() { \
	  echo "== tests that $$1"; \
	  $(BIN)/pytest --durations 12 -m "$(SHORT) and $$2" $$3 || failed="$$failed, those that $$1"; \
	}; \
	run 'share the machine' 'not paced and not alone' '-n 4 --dist worksteal'; \
	run 'keep moments' paced '-n 4 --dist worksteal'; \
	run 'take the whole machine, one after the other' alone; \
	if [ "$$failed" ]; then echo "== FAILED: $${failed#, }"; exit 1; fi; \
	echo '== all passed'

# The source tree once more, with the hot path as machine code beside its sources: what is run in
# there runs that, and nobody who edits the sources runs the code of yesterday. A minute and a half.
# Machine code of a module that is compiled no more goes first: it would be loaded before its source.
COMPILED := build/compiled
compiled: setup
	@mkdir -p $(COMPILED)
	@tar --create --exclude ./build --exclude ./.git --exclude ./.venv --exclude ./dist --exclude ./site --exclude '*.so' . \
	  | tar --extract --directory $(COMPILED)
	@find $(COMPILED)/gateway $(COMPILED)/instance -name '*.so' -delete
	@echo '== compiling the hot path'
	@cd $(COMPILED) && HEADGATE_COMPILE=1 ../../$(BIN)/python setup.py --quiet build_ext --inplace

# What the hot path has to do, done by its compiled form; of the instance's tests those that are
# about it (a minute and a half of processor time).
OF_INSTANCE := $(patsubst %,tests/instance/test_%.py,arena bad_models batcher connections defaults \
  faults hooks instance_core litserve_authorize observers preparing pressure queue recovery serving shared_messages streams)
test-compiled: compiled
	cd $(COMPILED) && HEADGATE_CORPORA=$${HEADGATE_CORPORA:-$(CURDIR)/../shared/corpora} ../../$(BIN)/pytest -m "$(SHORT) and not paced and not alone" -n 3 --dist worksteal \
	  tests/core tests/dataplane tests/telemetry tests/requirements $(OF_INSTANCE)

# An sdist, and from it a wheel with the compiled form where there is a C compiler; with
# HEADGATE_COMPILE=1 there must be one, and with 0 the wheel is for every platform.
dist: setup
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build

# The documentation as a site, in site/, with every link and anchor checked; look at it by
# `.venv/bin/mkdocs serve`.
docs: setup
	@$(PIP) --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo '== the site is in site/: open site/index.html, or python3 -m http.server --directory site'

# The long form of all tests, or of some: `make soak TESTS="-n 2 tests/simulation"`.
TESTS ?=
soak: setup
	$(BIN)/pytest -m soak --timeout 3600 $(TESTS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: compiled
	@$(PIP) --quiet --editable '.[bench]'
	cd $(COMPILED) && ../../$(BIN)/python -m benchmarks
	cp $(COMPILED)/docs/benchmarks.md docs/ && cp $(COMPILED)/docs/images/benchmarks.svg docs/images/

# ResNet-50 on a GPU, served and bare: `make bench-gpu DEVICE=cuda:1`
DEVICE ?= cuda:0
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu --device $(DEVICE)

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache
