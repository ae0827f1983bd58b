# Two commands: `make demo` shows the whole story on the embedded model, `make test` runs the tests.
# No GPU and on the open internet? `make demo TORCH_BACKEND=cpu` saves a 3 GB download.
SHELL := /bin/bash
PY ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p) 2>/dev/null)))
V ?= .venv
BIN := $(V)/bin
# Some machines switch byte code off; then every process compiles torch and transformers anew.
export PYTHONDONTWRITEBYTECODE =
# uv does not read pip's own configuration of local wheels.
FOUND_LINKS := $(or $(PIP_FIND_LINKS),$(shell $(PY) -m pip config get global.find-links 2>/dev/null))
export UV_FIND_LINKS ?= $(FOUND_LINKS)

.PHONY: demo demo-full test check format clean

demo: $(V)/.ready  ## a small model learns a company's rules: prepare, train, evaluate, export, prove
	$(BIN)/danlu demo

demo-full: $(V)/.ready  ## the same with continued pretraining and preference learning
	$(BIN)/danlu demo --full

test: $(V)/.kernels  ## all tests that need neither a GPU nor a compiler
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(V)/.ready  ## lint, format and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(V)/.ready
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:
	rm -rf $(V) .pytest_cache .mypy_cache .ruff_cache

$(V)/.ready: pyproject.toml constraints.txt
	@test -n "$(PY)" || { echo "danlu needs Python 3.11 or newer; none was found. Name one with make PY=/path/to/python"; exit 1; }
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "danlu needs Python 3.11 or newer, $(PY) is $$($(PY) -V)"; exit 1; }
	$(PY) -m venv $(V)
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c constraints.txt \
	    $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) -e '.[dev]'
	@touch $@

# Only the tests need it, and it is large: kernels are interpreted where torch came without Triton, as for a CPU.
$(V)/.kernels: $(V)/.ready
	$(BIN)/python -c 'import triton' 2>/dev/null || [ "$$(uname -sm)" != "Linux x86_64" ] || \
	    $(BIN)/uv pip install -q --python $(BIN)/python 'triton==3.9.*'
	@touch $@
