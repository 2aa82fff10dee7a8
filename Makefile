# make segment and make test set everything up themselves; make help lists the rest.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX_URL ?=
PHOTO ?= hub_scripts/photos/coins.jpg
PROMPT ?= --box 303,14,366,74 --box 130,27,181,76 --box 243,93,298,146 --box 23,102,69,148 --box 313,154,381,220
OUT ?= segmented
# A file's tests stay in one process: what they share is made once. Some wait, so there is a process more than processors.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() + 1))')
PYTEST_ARGS ?= -n $(WORKERS) --dist loadscope --no-loadscope-reorder

BIN := $(VENV)/bin
CONSTRAINTS := .ci/constraints.txt
TYPING := build/typing/sam_variants
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help segment test lint types wheel clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' Makefile

segment: $(VENV)/.installed ## segment the bundled photo with the embedded checkpoint into segmented/
	@$(BIN)/sam-variants segment $(PHOTO) $(PROMPT) --out $(OUT)
	@cd $(OUT) && echo "The pictures are in $$(pwd):" && ls

test: $(VENV)/.installed-dev build/torchao ## run the fast tests: no network, no weights to download
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Beside the environment: where transformers finds torchao, every process starts slower. One test looks for it here.
build/torchao: $(CONSTRAINTS) | $(VENV)/.installed-dev
	@rm -rf $@
	$(INSTALL) --no-deps --target $@ --constraint $(CONSTRAINTS) torchao
	@touch $@

lint: $(VENV)/.installed-dev ## ruff: lint rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow the finder of an editable install: it reads a tree of links with the wheel's shape instead
# (mypy_path in pyproject.toml).
types: $(VENV)/.installed-dev ## mypy over the package as the wheel lays it out
	@rm -rf $(TYPING) && mkdir -p $(TYPING)
	@for path in modeling_sam_variants/* configuration hub_scripts spaces_demo; do \
		if [ -e "$$path" ]; then ln -s "../../../$$path" $(TYPING)/; fi; done
	$(BIN)/mypy -p sam_variants

# A stale build/lib would ship modules that were deleted since.
wheel: $(VENV)/.installed-dev ## build the wheel into dist/
	@rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --wheel --outdir dist .

clean: ## remove what the other targets made, except the virtual environment
	rm -rf build dist segmented tests/node_modules *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find configuration hub_scripts modeling_sam_variants spaces_demo tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone, so that TORCH_INDEX_URL can choose its build and nothing else can replace it.
$(VENV)/.torch: $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sam-variants needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes."
	$(INSTALL) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) $$(grep '^torch==' $(CONSTRAINTS))
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(INSTALL) --constraint $(CONSTRAINTS) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@
