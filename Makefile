# Two commands: `make demo` shows the main job, `make test` checks the house. Both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := $(BIN)/python benchmarks/performance
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint format venv docs clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.runtime  ## Make sample scans, train, segment unseen ones, evaluate, show pictures (about 5 minutes)
	@"$(BIN)/medseg" demo --output demo

test: $(VENV)/.dev  ## Run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

bench: $(VENV)/.dev  ## Measure speed and memory on this machine (minutes, more with MEDSEG_DATA); benchmarks/ has the rest
	$(BIN)/python benchmarks/augmentation.py --patch 128,128,128
	$(BENCH)/segment_big.py --shape 256 256 128 --others --result build/bench/segment_big.json
	$(BENCH)/scaling.py --only volume --largest 256 --result build/bench/scaling.json
ifdef MEDSEG_DATA
	$(BENCH)/segment_small.py --without-peers --result build/bench/segment_small.json
	$(BENCH)/prepare.py --without-peers --result build/bench/prepare.json
	$(BENCH)/training_step.py --without-peers --result build/bench/training_step.json
endif

lint: $(VENV)/.dev  ## Check style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev  ## Write docs/configuration.md from the models, docs/performance.md from what was measured
	$(BIN)/python docs/make_configuration.py
	$(BENCH)/page.py

venv: $(VENV)/.dev  ## Build the environment for development

clean:  ## Remove the environment and what the demo made
	rm -rf $(VENV) demo

# A Python that already has a CUDA torch lends it to the environment; every other one gets the pinned torch.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "medseg needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11" >&2; exit 1; }
	@mkdir -p $(VENV)
	@if command -v nvidia-smi >/dev/null && $(PYTHON) -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then \
	  echo "Building .venv around the CUDA torch of $(PYTHON) ..."; \
	  $(PYTHON) -m venv --system-site-packages $(VENV) && grep -v '^torch==' constraints.txt >$(VENV)/constraints.txt; \
	else \
	  echo "Building .venv (a few minutes the first time) ..."; \
	  $(PYTHON) -m venv $(VENV) && cp constraints.txt $(VENV)/constraints.txt; \
	fi
	@$(PIP) install --constraint $(VENV)/constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@$(PIP) install --constraint $(VENV)/constraints.txt --editable '.[dev]'
	@touch $@
