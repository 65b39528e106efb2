# make demo | test | test-all | chaos | lint | format | docs | figures | setup
# | setup-gpu | gpu-wheels | gpu-check | clean; `make` alone lists them.
#
#   PYTHON=...          the interpreter for a new .venv (3.11 or 3.12; found by itself)
#   DEMO_ARGS=...       passed to `areal-cppo demo`, e.g. DEMO_ARGS="--steps 5"
#   TEST_ARGS=...       passed to pytest, e.g. TEST_ARGS="-m 'not sglang'"
#   AREAL=...           a checkout of AReaL that the tests run on, not the installed one
#   FIGURES=...         some of docs/figures.yaml; --list says what is done
#   CHAOS_ARGS=...      passed to the chaos suite, as CHAOS_ARGS="--faults server-kill"
#   GPU_CHECK_ARGS=...  passed to the GPU check
#   GPU_PYTHON=...      the interpreter for it: the one that has a CUDA torch (python3)

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test test-all chaos lint format docs figures setup setup-gpu \
	gpu-wheels gpu-check clean
.PRECIOUS: .venv/.ready .venv/.ready-gpu

# Trainer, server and tests share a few cores: two threads each are ten times slower.
export OMP_NUM_THREADS ?= 1

BIN := .venv/bin
READY := .venv/.ready
GPU_READY := .venv/.ready-gpu
CPU_LOCK := requirements/cpu.txt
CPU_PTH := requirements/cpu.pth
GPU_LOCK := requirements/gpu.txt
GPU_CHECK_LOCK := requirements/gpu-check.txt
GPU_PYTHON ?= python3
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
SITE_PACKAGES := import sysconfig; print(sysconfig.get_path('purelib'))
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

# The first interpreter that runs and is suitable: a name on PATH may be a dead link.
ifndef PYTHON
PYTHON := $(shell for name in python3.11 python3.12 python3; do \
	if $$name -c "$(SUITABLE)" >/dev/null 2>&1; then echo $$name; break; fi; done)
endif

help:
	@echo "make demo        train a tiny model end to end on this machine's CPUs"
	@echo "make test        prove the parts, one real run included, in minutes"
	@echo "make test-all    everything, real runs of all kinds included"
	@echo "make chaos       faults in real runs, and what they cost (an hour or two)"
	@echo "make gpu-wheels  download what gpu-check needs on a machine without a network"
	@echo "make gpu-check   run the trainer's side on this machine's GPU"
	@echo "make lint        check style and formatting"
	@echo "make format      mend style and formatting"
	@echo "make docs        build the documentation's site into build/site"
	@echo "make figures     measure again what README and docs say (hours; goes on)"
	@echo "make setup       make .venv and install into it (the others do so when needed)"
	@echo "make setup-gpu   make .venv for training on GPUs (CUDA) and install into it"
	@echo "make clean       remove caches and build output; keeps .venv and runs"

demo: setup
	$(BIN)/areal-cppo demo $(DEMO_ARGS)

# Files go to workers side by side. `make test`: the quick tests, and one real run.
WORKERS := -n logical --maxprocesses=4 --dist loadfile --no-loadscope-reorder

# First on the path of all that tests start; what of it doesn't fit is said first.
ifdef AREAL
test test-all: export PYTHONPATH := $(abspath $(AREAL))$(if $(PYTHONPATH),:$(PYTHONPATH))
CONTRACTS = @test -f '$(AREAL)/areal/__init__.py' || { echo "error: AREAL: expected a" \
	"checkout of AReaL, found '$(AREAL)' without areal/__init__.py" >&2; exit 2; }; \
	$(BIN)/python -m pytest tests/patches -q
endif

test: setup
	$(CONTRACTS)
	$(BIN)/python -m pytest tests $(or $(TEST_ARGS),$(WORKERS) -m "smoke or not slow")

test-all: setup
	$(CONTRACTS)
	$(BIN)/python -m pytest tests $(WORKERS) --durations 40 --durations-min 10

chaos: setup
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	@echo "build/site/index.html; .venv-docs/bin/mkdocs serve shows it as you write"

figures: setup
	$(BIN)/python docs/figures.py $(FIGURES)

.venv-docs/.ready: requirements/docs.txt
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check --no-input -qq install -r $<
	@touch $@

setup: $(READY)

setup-gpu: $(GPU_READY)

# A .venv holds one lock. The lock for GPUs has all that its torch needs; what the CPU
# lock's needs depends on where it comes from, so that pip gets it beforehand.
$(READY): LOCK := $(CPU_LOCK)
$(READY): DEV := -r requirements/dev.txt
$(READY): TORCH := $(shell grep '^torch==' $(CPU_LOCK))
$(READY): SIZE := 3 GB, some minutes
$(READY): OTHER := $(GPU_READY)
$(READY): OTHER_LOCK := $(GPU_LOCK)
$(READY): PTH := $(CPU_PTH)
$(READY): $(CPU_LOCK) $(CPU_PTH) requirements/dev.txt

$(GPU_READY): LOCK := $(GPU_LOCK)
$(GPU_READY): SIZE := 12 GB, some minutes
$(GPU_READY): OTHER := $(READY)
$(GPU_READY): OTHER_LOCK := $(CPU_LOCK)
$(GPU_READY): $(GPU_LOCK)

# The stamp is there from the first package on, dated 1970 till the last: a set-up that
# failed midway is continued by the next call, with the same lock only.
$(READY) $(GPU_READY): requirements/build.txt setup.cfg pyproject.toml
	@if test -e $(OTHER); then \
		echo "error: expected a .venv for $(LOCK), found one with $(OTHER_LOCK);" \
			"remove it (rm -r .venv), or set up in another clone" >&2; \
		exit 2; \
	fi
	@if $(BIN)/python -c "$(SUITABLE)" 2>/dev/null; then \
		echo "set-up 1/4: .venv is there ($$($(BIN)/python -V))"; \
	elif '$(PYTHON)' -c "$(SUITABLE)" 2>/dev/null; then \
		echo "set-up 1/4: making .venv with $$($(PYTHON) -V)"; \
		$(PYTHON) -m venv --clear .venv; \
	else \
		echo "error: expected Python 3.11 or 3.12 with venv, found '$(PYTHON)'" \
			"($$('$(PYTHON)' -V 2>&1 | head -n 1)); install one and run" \
			"make $(@:.venv/.ready%=setup%) PYTHON=/path/to/python3.11" >&2; \
		exit 2; \
	fi
	@touch -d @0 $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	@echo "set-up 2/4: build tools$(if $(TORCH), and $(TORCH))"
	@$(PIP) install --no-deps -r requirements/build.txt
	@$(if $(TORCH),$(PIP) install $(TORCH))
	@echo "set-up 3/4: $$(grep -c '^[^#].*==' $(LOCK)) pinned packages ($(SIZE))"
	@$(PIP) install --no-deps -r $(LOCK) $(DEV)
	@echo "set-up 4/4: areal-cppo itself"
	@$(PIP) install --no-deps --no-build-isolation -e .
	@$(if $(PTH),folder=$$($(BIN)/python -c "$(SITE_PACKAGES)"); \
		rm -f "$$folder/areal_cppo_cpu.pth"; \
		$(BIN)/python -c "import torchvision" 2>/dev/null || \
			cp $(PTH) "$$folder/areal_cppo_cpu.pth")
	@touch $@
	@echo "set-up done"

# For another machine: CPython 3.12 whatever .venv has. The folder is made anew, because
# two versions of a package in it would be in each other's way.
gpu-wheels: setup
	@rm -rf gpu-wheels
	@$(PIP) download --no-deps --only-binary=:all: --python-version 3.12 \
		--implementation cp --abi cp312 --abi abi3 --abi none \
		--platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
		-d gpu-wheels -r $(GPU_CHECK_LOCK)
	@echo "gpu-wheels: $$(ls gpu-wheels | wc -l) wheels," \
		"$$(du -cb gpu-wheels/*.whl | awk 'END {printf "%.1f", $$1 / 1e6}') MB"

gpu-check:
	$(GPU_PYTHON) -m tests.gpu_check $(GPU_CHECK_ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find areal_cppo tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
