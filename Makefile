# Everything starts here: `make` lists the targets.
VENV := .venv
UV_VERSION := 0.13.9
PYTHON ?= python3
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro repro-full test lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make the virtual environment and install the locked dependencies

$(VENV)/.ready: pyproject.toml uv.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(VENV)/bin/uv sync --frozen --compile-bytecode
	@touch $@

repro: setup ## run the study, or what has changed of it, and print the result
	@vitquant machine --out results/machine.json
	dvc repro
	@vitquant summary

repro-full: setup ## run the seed report's study as an experiment (downloads 600 MB; SET="key=value …" changes it)
	@vitquant experiment studies/tiny-imagenet.yaml $(foreach change,$(SET),--set '$(change)')

test: setup ## run the tests
	pytest

lint: setup ## check format, lint and types
	ruff format --check
	ruff check
	mypy

clean: ## delete the environment, and all data, models and caches; results in git stay
	rm -rf $(VENV) .dvc/cache .dvc/tmp data models results/predictions .mypy_cache .pytest_cache .ruff_cache
