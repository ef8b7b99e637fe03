# make install · train · test · test-all · bench · cuda · triton-report · cuda-report · check · wheel     (each works on a fresh clone)
PYTHON ?= python3
# Another torch: make install TORCH_SPEC="torch==2.13.0"
TORCH_SPEC ?= torch
# More arguments of pip for it, such as the index of the CPU builds
TORCH_ARGS ?=
# Arguments of the main job: make train ARGS="--preset celeba-64 --data faces.zip"
ARGS ?=
# The torch that make wheel tries the wheel with: the oldest that pyproject.toml allows
WHEEL_TORCH ?= torch==2.13.0

# Tests run in one thread, and a process for each core; files in their order, as the longest have the fewest tests
MAIN = OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder --ignore tests/cuda_host
INTERPRETED = TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(PY) -m pytest tests/triton -n auto
ON_HOST = OMP_NUM_THREADS=1 $(PY) -m pytest tests/cuda_host -n auto --dist loadfile

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed-$(shell printf '%s' '$(TORCH_SPEC) $(TORCH_ARGS)' | cksum | cut -d' ' -f1)

.PHONY: install train test test-all bench cuda triton-report cuda-report check wheel format clean
.DEFAULT_GOAL := install

install: $(STAMP)

$(STAMP): pyproject.toml setup.py $(wildcard csrc/*.py csrc/*.h csrc/cpu/* csrc/cuda/* csrc/host/*)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("idgan-fast needs Python 3.10 or newer, got " + sys.version.split()[0] + ": make PYTHON=python3.11 install")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet "setuptools>=77" wheel ninja
	$(PY) -m pip install --quiet "$(TORCH_SPEC)" $(TORCH_ARGS)
	$(PY) -m pip install --quiet --no-build-isolation --editable ".[dev,dali]"
	@rm -f $(VENV)/.installed-* && touch $@

train: install
	$(PY) -m idgan_fast.train $(ARGS)

test: install
	$(MAIN) -m "not slow"
	$(ON_HOST) -m "not slow"
	$(INTERPRETED) -m "not slow"

test-all: install
	$(MAIN)
	IDGAN_FAST_HOST=0 $(MAIN) tests/ops
	$(ON_HOST)
	$(INTERPRETED)

# Every backend, type, layout and size, and compiled steps: hours. A chosen row for each operator and network takes
# minutes: pytest benchmarks/ --benchmark-only
bench: install
	mkdir -p build
	$(PY) -m pytest benchmarks --benchmark-only --full --benchmark-json=build/bench.json
	$(PY) -m benchmarks.report build/bench.json

# The CUDA library in place, for every GPU that TORCH_CUDA_ARCH_LIST or setup.py lists; needs nvcc and none of them.
cuda: install
	IDGAN_FAST_CUDA=all $(PY) setup.py --quiet build_ext --inplace --only _cuda

# Every shipped configuration of the Triton kernels for five GPUs; needs none.
triton-report: install
	$(PY) -m benchmarks.triton_report

# Every instance of the CUDA kernels for two GPUs; needs nvcc and none of them.
cuda-report: install
	$(PY) -m benchmarks.cuda_report

check: install
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

# For every Python and torch, and so without the host library, which fits one of each.
# With the CUDA library for every GPU, as +cu13: make wheel IDGAN_FAST_CUDA=all
# build/lib* first: setuptools would pack what it left there from modules that are gone.
wheel: install
	rm -rf build/lib* build/bdist* dist/*.whl
	IDGAN_FAST_HOST=0 $(PY) -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	$(PY) tests/wheel.py dist/*.whl "$(WHEEL_TORCH)" $(TORCH_ARGS)

format: install
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
