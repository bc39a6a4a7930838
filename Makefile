# Everything a checkout needs. GNU make 3.81 or newer, Linux and macOS; on Windows see README.md for the plain commands.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

# Which build of PyTorch: empty takes PyPI's (on Linux with CUDA, over 2 GB); cpu, cu128, ... that of download.pytorch.org.
TORCH ?=
# What `make demo` trains, and what `make test` runs and hands to pytest.
DEMO ?= --preset demo
WORKERS ?= auto
TESTS ?=
ROWS ?=
# What `make interop` installs and trains.
INTEROP := .interop

PIP := $(BIN)/python -m pip --disable-pip-version-check
.DEFAULT_GOAL := help
.PHONY: help demo demo-model test faults lint bench interop docs notebook clean

help: ## tell what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{ printf "  make %-10s %s\n", $$1, $$2 }'
	@echo "  On a machine without a GPU, TORCH=cpu takes PyTorch's small build: make demo TORCH=cpu"

demo: $(VENV)/.installed ## train a GPT-2 on the bundled stories in about three minutes, and let it tell one
	$(BIN)/gpt2 train $(DEMO) --out models/demo --overwrite
	@echo "(gpt2 lives in the environment: write $(BIN)/gpt2, or first run: . $(BIN)/activate)"

# Under an hour on one idle core. GPT2_DATA names the folder of TinyStories-train.txt and -valid.txt; fetched if not there.
demo-model: $(VENV)/.installed ## train the model that the package brings, on TinyStories, and pack it
	$(BIN)/python scripts/demo_model.py --data $${GPT2_DATA:-data}

# One thread each: the models are tiny, and the workers share the cores.
test: $(VENV)/.installed-dev ## run every test
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal $(TESTS)

# Runs for about ten minutes; a part of it runs with `make test`. Some faults need Linux and strace (apt-get install strace).
faults: $(VENV)/.installed-dev ## kill, starve and damage runs in every way of tests/faults, and processes of tests/distributed
	GPT2_FAULTS=full OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -rs -s $(if $(TESTS),$(TESTS),tests/faults tests/distributed)

lint: $(VENV)/.installed-dev ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.installed-dev ## measure against the field's tools (ROWS="training-* decoding-*"; minutes per row)
	$(BIN)/gpt2 bench $(ROWS)

# Over a gigabyte of other people's programs, in .interop alone; a model is trained there for a minute.
interop: $(INTEROP)/model/config.json $(INTEROP)/.node $(INTEROP)/.heavy ## open exports in llama.cpp, transformers.js, TransformerLens, lm-eval
	GPT2_INTEROP_MODEL=$(INTEROP)/model GPT2_NODE_MODULES=$(INTEROP)/node_modules \
		GPT2_HEAVY_PYTHON=$(INTEROP)/heavy/bin/python $(BIN)/python -m pytest -m "" -s tests/interop/heavy

docs: $(VENV)/.installed-dev ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebook: $(VENV)/.installed-dev ## write and execute GPT2.ipynb from notebooks/GPT2.py
	$(BIN)/python notebooks/build.py

# The built page stands in the repository, so that installing it needs no Node; a test holds it equal to its sources.
.PHONY: web
web: web/node_modules/.installed ## build the page of `gpt2 serve` from web/
	cd web && npm run --silent check && npm run --silent build

web/node_modules/.installed: web/package.json web/package-lock.json
	@command -v npm >/dev/null || { echo "make web needs Node.js 20.19 or newer with npm: https://nodejs.org" >&2; exit 2; }
	cd web && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

clean: ## remove the environment, caches and builds; data/ and models/ stay
	rm -rf $(VENV) $(INTEROP) web/node_modules build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is made once, and again when what is to be installed changes.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found. Install one (https://www.python.org/downloads/)," \
		"or name it: make demo PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is not Python 3.11 or newer; name one that is: make demo PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python could not make an environment. On Debian and Ubuntu the module comes" \
		"apart: sudo apt install python3-venv" >&2; rm -rf $(VENV); exit 2; }
	@touch $@

# Alone and first: pip then keeps this build, whatever PyPI offers under the same version.
$(VENV)/.torch: $(VENV)/.made constraints.txt
	@echo "Installing into $(VENV); PyTorch is large, so the first time takes minutes."
ifneq ($(TORCH),)
	$(PIP) install --no-deps --index-url https://download.pytorch.org/whl/$(TORCH) "$$(grep '^torch==' constraints.txt)"
endif
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $(VENV)/.installed $@

$(INTEROP)/model/config.json: $(VENV)/.installed-dev
	$(BIN)/gpt2 train --preset demo --minutes 1 --out $(INTEROP)/model --overwrite

# Of the packages for other systems and graphics cards, which npm would fetch too, only this machine's.
$(INTEROP)/.node: tests/interop/heavy/package.json
	@command -v npm >/dev/null || { echo "make interop needs Node.js 20 or newer with npm: https://nodejs.org" >&2; exit 2; }
	mkdir -p $(INTEROP) && cp tests/interop/heavy/package.json $(INTEROP)
	cd $(INTEROP) && npm install --ignore-scripts --omit=optional --no-audit --no-fund
	cd $(INTEROP) && npm install --ignore-scripts --omit=optional --no-audit --no-fund --no-save \
		$$(node ../tests/interop/heavy/platform.mjs node_modules)
	@touch $@

# On top of the development environment, so that PyTorch is not installed twice.
$(INTEROP)/.heavy: $(VENV)/.installed-dev tests/interop/heavy/requirements.txt
	$(BIN)/python -m venv $(INTEROP)/heavy
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(INTEROP)/heavy/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/development.pth"
	$(INTEROP)/heavy/bin/python -m pip --disable-pip-version-check install -r tests/interop/heavy/requirements.txt
	@touch $@
