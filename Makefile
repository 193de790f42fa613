# Two commands do all the set-up: `make demo` runs the main job, `make test` runs every test.
# A virtual environment is made in .venv with $(PYTHON); nothing else on the machine is changed,
# but for `make test` as root on Debian, which installs what the virtual cluster needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-quick lint types schema docs clean

demo: $(VENV)/.demo
	$(BIN)/mt-submit demo

test: $(VENV)/.dev
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(BIN)/python -m tests.cluster install; fi
	$(MAKE) lint types
	$(BIN)/python -m pytest

# Without the virtual cluster, the 250 MB model and vLLM: under two minutes.
test-quick: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not cluster and not model and not vllm"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/black --check --quiet .

types: $(VENV)/.dev
	$(BIN)/mypy

# What is generated from the code: the editors' schema and the reference pages.
schema: $(VENV)/.dev
	$(BIN)/mt-submit validate --schema > config/models.schema.json
	$(BIN)/python tools/reference.py

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.venv pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache
