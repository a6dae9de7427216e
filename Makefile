# Everything starts here: `make` lists the targets.
VENV := .venv
UV_VERSION := 0.13.9
PYTHON ?= python3
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# What people set reaches the shell as an environment variable, unexpanded, so that no part of it runs as a command.
override export ARTIFACT := $(or $(value ARTIFACT),models/recipes/vitquant-int8)
override export BASE := $(value BASE)
override export BENCH := $(or $(value BENCH),dvc repro benchmark_cuda)
override export CPUS := $(or $(value CPUS),0)
override export DOCKER := $(or $(value DOCKER),docker)
override export DOCKER_USER := $(value DOCKER_USER)
override export MEMORY := $(or $(value MEMORY),2g)
override export PORT := $(or $(value PORT),8000)
override export REV := $(value REV)
override export SET := $(value SET)

.DEFAULT_GOAL := help
.PHONY: help setup quick repro repro-full diff draws outliers drift studies serve loadtest test lint dependencies clean \
	docker-build docker-test docker-bench docker-serve-build docker-serve

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make the virtual environment and install the locked dependencies

$(VENV)/.ready: pyproject.toml uv.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(VENV)/bin/uv sync --frozen --extra serve --compile-bytecode
	@# DVC's own choice is a folder that all users share and that holds pickles
	@if [ -n "$$HOME" ]; then own="$${VITQUANT_CACHE:-$$HOME/.cache/vitquant}" && mkdir -p -m 700 "$$own" && \
		$(VENV)/bin/dvc config --quiet --local core.site_cache_dir "$$own/dvc"; fi
	@touch $@

quick: setup ## a first answer in minutes, from few images, recipes and launches: experiments/quick
	@vitquant experiment studies/quick.yaml

repro: setup ## run the study, or what has changed of it, and print the result
	@vitquant check
	@python dependencies/update.py
	@vitquant machine --out results/machine.json
	@vitquant repro
	@vitquant summary --readme README.md

repro-full: setup ## run the seed report's study as an experiment (downloads 600 MB; SET="key=value …" changes it)
	@set -f; for change in $$SET; do set -- "$$@" --set "$$change"; done; \
		vitquant experiment studies/tiny-imagenet.yaml "$$@"

diff: setup ## compare the results with those of a commit, as Markdown (REV=HEAD~1)
	@vitquant diff $${REV:+-- "$$REV"}

serve: setup ## serve the recommended artifact on port 8000, with fp32 to fall back on; after repro
	@vitquant serve --recommended --fallback models/recipes/fp32

loadtest: setup ## measure the server under load with the study's artifacts, in 16 minutes; after repro
	@vitquant serving

draws: setup ## measure how much of the accuracy is the draw of calibration images, probe and split; after repro
	@vitquant draws

outliers: setup ## measure how the recipes bear outliers in activations, as larger models have them; after repro
	@vitquant outliers

drift: setup ## measure what drift of the images costs each recipe, and what recalibration wins back; after repro
	@vitquant drift

studies: setup ## measure the studies that the report shows beside its own: a ViT-B's speed, and embeddings
	@set -e; for study in vit-b-speed embedding; do vitquant experiment studies/$$study.yaml --publish; done

test: setup ## run the tests, a file in each of up to four processes
	@# passive: threads that spin while they wait would take the cores from the other processes
	OMP_WAIT_POLICY=passive pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: setup ## check format, lint, types, the Dockerfiles and the stages' dependencies
	ruff format --check
	ruff check
	mypy
	hadolint docker/Dockerfile docker/serve.Dockerfile
	python dependencies/update.py --check

dependencies: setup ## make the links to the code that each stage of dvc.yaml depends on, from the imports
	@python dependencies/update.py

# Containers: DOCKER may be buildah, to build; BASE another base image. docs/gpu-hosts.md says what GPUs need.
# BENCH and DOCKER are a program and its arguments, with spaces between. A container gets no capability; history it only
# reads, and so it plants no hook that the host would run.
TERMINAL := $$(test -t 0 && echo --interactive --tty) # so that Ctrl-C reaches all that runs inside
RUN := set -f; $$DOCKER run --rm $(TERMINAL) --shm-size 2g --cap-drop ALL --security-opt no-new-privileges
BUILD := set -f; $$DOCKER build $(if $(findstring buildah,$(DOCKER)),--layers --format docker) \
	$${BASE:+--build-arg "BASE=$$BASE"}

docker-build: ## make the container image (DOCKER=buildah, BASE=image)
	@set -f; docker/check.sh build $$DOCKER
	$(BUILD) --file docker/Dockerfile --tag vitquant .

docker-test: ## run the tests and the first answer of `make quick` in the container
	@set -f; docker/check.sh run $$DOCKER
	@$(MAKE) --no-print-directory docker-build
	$(RUN) vitquant pytest -p no:cacheprovider
	$(RUN) vitquant docker/quick.sh

docker-bench: ## run the CUDA benchmark in the container, on this checkout: results/cuda
	@set -f; docker/check.sh gpu $$DOCKER
	@$(MAKE) --no-print-directory docker-build
	$(RUN) --security-opt label=disable --hostname "$$(uname -n)" --gpus all \
		--user "$${DOCKER_USER:-$$(id -u):$$(id -g)}" --volume "$$PWD:/vitquant" --volume "$$PWD/.git:/vitquant/.git:ro" \
		vitquant docker/bench.sh $$BENCH

docker-serve-build: ## make the container image of the server on CPUs, without PyTorch (DOCKER=buildah, BASE=image)
	@set -f; docker/check.sh build $$DOCKER
	$(BUILD) --file docker/serve.Dockerfile --tag vitquant-serve .

docker-serve: ## serve an artifact of vitquant-int8 in a container (ARTIFACT=folder, PORT=8000, CPUS=2, MEMORY=2g)
	@set -f; docker/check.sh run $$DOCKER
	@test -f "$$ARTIFACT/recipe.json" || { echo "Error: $$ARTIFACT is no artifact: \`make repro\`, or ARTIFACT=folder" >&2; exit 2; }
	@$(MAKE) --no-print-directory docker-serve-build
	$(RUN) --security-opt label=disable --read-only --tmpfs /tmp --stop-timeout 30 --cpus "$$CPUS" --memory "$$MEMORY" \
		--volume "$$(realpath -- "$$ARTIFACT"):/artifact:ro" --publish "127.0.0.1:$$PORT:8000" vitquant-serve

clean: ## delete the environment, and all data, models and caches; results in git stay
	rm -rf $(VENV) .dvc/cache .dvc/tmp data/raw data/processed data/.*.partial models results/predictions \
		.mypy_cache .pytest_cache .ruff_cache
