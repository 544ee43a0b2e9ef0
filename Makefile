# `make demo` and `make test` each work alone on a fresh machine: the environment is made in .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROWSER := $(VENV)/.browser

.PHONY: help install demo test test-fast test-stress coverage quality style benchmark clean

help:
	@echo "make demo       render songs, fine-tune a small AST on them, leave the model in runs/toy"
	@echo "make test       run the tests; test-fast leaves out the slow ones"
	@echo "make test-stress  the rest: kills, full disks, damaged files, several processes, a Hub, a browser"
	@echo "make coverage   all tests, with the share of lines that they run, by file"
	@echo "make quality    ruff, types and spelling"
	@echo "make style      let ruff fix what it can"
	@echo "make benchmark  print the speed table"

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

# Chromium, for the test that opens a report; without it and without an apt-get that we may use, that test is skipped.
$(BROWSER): $(STAMP)
	@if ! command -v chromium >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then root=; else root="sudo -n"; fi; \
		{ command -v apt-get && $$root true && $$root apt-get update -qq && \
			$$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } </dev/null >/dev/null 2>&1; \
	fi; \
	if command -v chromium >/dev/null; then touch $@; \
	else echo "No chromium here, and apt-get cannot install it: the browser test will be skipped."; fi

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/emotion-ft finetune toy --overwrite_output_dir

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP) $(BROWSER)
	$(PYTEST) -m "not stress"

test-fast: $(STAMP) $(BROWSER)
	$(PYTEST) -m "not slow and not stress"

test-stress: $(STAMP) $(BROWSER)
	$(PYTEST) -m stress

coverage: $(STAMP) $(BROWSER)
	COVERAGE_FILE=$(CURDIR)/.pytest_cache/coverage $(PYTEST) --cov=emotion_ft --cov-report=term:skip-covered

quality: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $$(git ls-files)
	$(BIN)/mypy

style: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(STAMP)
	$(BIN)/emotion-ft benchmark

clean:
	rm -rf $(VENV) runs
