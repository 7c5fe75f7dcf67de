# make demo       set up and run the whole pipeline on the built-in model      make test   set up and run the tests
# make check      format, lint, types, layers                                  make clean  remove what make made
# make tour       walk through the whole app in a terminal, by keys (tmux)     make tour-short  the same in minutes
# make bench      measure all of benchmarks/ and write its page, in hours; BENCH="rollout growth" only these
# make bench-page write benchmarks/README.md from the figures that are there
#
# Everything is installed into .venv at the versions of constraints.txt. PYTHON=python3.12 chooses the interpreter.

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
ifeq ($(origin CXX),default)
CXX := c++
endif
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-by-make
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO ?= demo-project
BENCH ?=
TRL := build/trl
TRL_INSTALLED := $(TRL)/installed-by-make

# A CUDA build links the driver's own library: with the compiler alone it would build and then not load.
NVCC = $(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc))
DRIVER = $(or $(shell command -v nvidia-smi),$(wildcard /usr/lib/wsl/lib/libcuda.so.1),\
	$(shell /sbin/ldconfig -p 2>/dev/null | grep -o -m 1 'libcuda\.so\.1'))

.PHONY: demo test test-long test-long-sample tour tour-short bench bench-page check setup clean
.DELETE_ON_ERROR:

demo: setup
	$(BIN)/rlhf-lite demo "$(DEMO)"

test: setup
	$(BIN)/python -m pytest

test-long: setup
	$(BIN)/python -m pytest -m long

test-long-sample: setup
	$(BIN)/python -m pytest -m sample

tour: setup
	$(BIN)/python tests/tour/tour.py

tour-short: setup
	$(BIN)/python tests/tour/tour.py --short

bench: setup $(TRL_INSTALLED)
	$(BIN)/python benchmarks/bench.py $(BENCH)

bench-page: setup
	$(BIN)/python benchmarks/bench.py --page

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' || { \
	echo "rlhf-lite needs Python 3.11, 3.12 or 3.13, and $(or $(PYTHON),python3) is none of them."; \
	echo "Next: install one (Debian, Ubuntu: apt install python3.11 python3.11-venv), then make PYTHON=python3.11"; exit 1; }
	@command -v $(firstword $(CXX)) >/dev/null || { \
	echo "There is no C++ compiler ($(CXX)), and llama.cpp has to be compiled on this machine."; \
	echo "Next: apt install build-essential cmake (Fedora: dnf install gcc-c++ make cmake), then make again"; exit 1; }
	@command -v cmake >/dev/null || \
	echo "CMake is not installed: pip fetches one for this build. To use the system's: apt install cmake"
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(if $(NVCC),$(if $(DRIVER),\
	echo "CUDA compiler and NVIDIA driver found: llama.cpp is built for the GPU (10 minutes or more)",\
	echo "$(NVCC) is here but no NVIDIA driver: llama.cpp is built for the CPU (a few minutes)"),\
	echo "No CUDA compiler (nvcc): llama.cpp is built for the CPU (a few minutes), chat will run there")
	$(if $(and $(NVCC),$(DRIVER)),CMAKE_ARGS=-DGGML_CUDA=on CUDACXX=$(NVCC) \
	$(PIP) install --no-cache-dir -c constraints.txt llama-cpp-python)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# What PPO is compared with: the last TRL that had one, in an environment of its own.
$(TRL_INSTALLED): benchmarks/peers/trl-1.12.0.txt
	[ -x $(TRL)/bin/python ] || $(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip --disable-pip-version-check install -r $<
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache
	find rlhf_lite tests assets benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
