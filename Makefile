PYTHON ?= python3
# The light runtime that a user installs, and everything that the tests need, kept apart.
VENV := .venv
DEV := .venv-dev

.PHONY: demo picture test test-slow lint format clean

DEMO := $(VENV)/bin/shvit predict samples --truth samples/labels.csv --top-k 3

demo: $(VENV)/installed
	$(DEMO)

# The README's, by the same command; to be made again with new weights.
picture: $(VENV)/installed
	mkdir -p build
	$(DEMO) --format jsonl --output build/predictions.jsonl
	$(VENV)/bin/python docs/images/predictions.py docs/images/predictions.jpg <build/predictions.jsonl

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(DEV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

test: $(DEV)/installed
	$(DEV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: $(DEV)/installed
	$(DEV)/bin/python -m pytest -m slow

lint: $(DEV)/installed
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports  # the table of rooms in CONTRIBUTING.md

format: $(DEV)/installed
	$(DEV)/bin/ruff format .
	$(DEV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) $(DEV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
