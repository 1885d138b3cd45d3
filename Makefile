# The verbs: run, test, check, and what CI adds to them. Every one works on a fresh clone with Python and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 4000

# Most of a test's time is a proxy that starts on one core. A file's tests stay together: they share its proxy.
WORKERS ?= 2
SIDE_BY_SIDE := --numprocesses $(WORKERS) --dist loadfile
INSTALLED := $(VENV)/.installed

# A real backend, in an environment of its own.
PHOENIX_VENV := .venv-phoenix
PHOENIX_INSTALLED := $(PHOENIX_VENV)/.installed

# The image row: LiteLLM's own container images pin older OpenTelemetry parts (the extra `proxy-runtime`).
IMAGE_ROWS := image-1.104.0 image-1.106.2

.PHONY: help run test check format test-slow test-matrix e2e clean $(addprefix test-,$(IMAGE_ROWS))

help:
	@echo "make run          a proxy on port $(PORT) with a mock model; each request is drawn in the terminal"
	@echo "make test         all tests but the slow ones"
	@echo "make check        formatting, lint and types"
	@echo "make test-slow    the slow faults and lifecycles"
	@echo "make test-matrix  contract tests and whole requests on LiteLLM's image pins"
	@echo "make e2e          real clients, a real proxy, and what a real Phoenix shows of it"
	@echo "make format       format the code"
	@echo "make clean        remove the environments and caches"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	@touch $@

run: $(INSTALLED)
	@$(BIN)/litellm-otel run --config config/quickstart.yaml --port $(PORT)

test: $(INSTALLED)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not e2e"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv-%/.installed: tests/matrix/%.txt pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --editable ".[dev]" --requirement $<
	@touch $@

$(addprefix test-,$(IMAGE_ROWS)): test-%: .venv-%/.installed
	.venv-$*/bin/python -m pytest -m "(contract or whole_request) and not slow"

# The newest row's share of this is in `make test`.
test-matrix: $(addprefix test-,$(IMAGE_ROWS))

$(PHOENIX_INSTALLED): tests/e2e/requirements.txt
	$(PYTHON) -m venv $(PHOENIX_VENV)
	$(PHOENIX_VENV)/bin/python -m pip install --quiet --requirement $<
	@touch $@

e2e: $(INSTALLED) $(PHOENIX_INSTALLED)
	$(BIN)/python -m pytest -m e2e

clean:
	rm -rf $(VENV) $(PHOENIX_VENV) $(addprefix .venv-,$(IMAGE_ROWS)) .mypy_cache .ruff_cache .pytest_cache .hypothesis
