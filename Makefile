# `make demo` and `make test` each work alone on a fresh machine: the environment is made in .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-fast quality style benchmark clean

help:
	@echo "make demo       render songs, fine-tune a small AST on them, leave the model in runs/toy"
	@echo "make test       run every test"
	@echo "make test-fast  run the tests not marked slow"
	@echo "make quality    ruff lint and format check"
	@echo "make style      let ruff mend what it can"
	@echo "make benchmark  print the speed table"

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/accelerate launch recipes/finetune.py recipes/configs/toy.yaml --overwrite_output_dir

test: $(STAMP)
	$(BIN)/python -m pytest

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

quality: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(STAMP)
	$(BIN)/python recipes/benchmark.py

clean:
	rm -rf $(VENV) runs
