# Everything runs in .venv, which is made on first use. `make` alone lists the targets.

# The interpreter that .venv is made from; any Python >= 3.11. Used only while there is no .venv.
PYTHON ?=
# `make synth`: a named library (generic, osu018, ...) or the path of a Liberty file.
PDK ?=
LIB ?=

LIBRARY = $(if $(PDK),--pdk "$(PDK)") $(if $(LIB),--lib "$(LIB)")
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

export PYTHONDONTWRITEBYTECODE ?=

.PHONY: help venv demo test sim synth lint bench docs clean distclean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=...   the interpreter to make .venv from (Python 3.11 or newer)"
	@echo "  PDK=... LIB=...   for make synth: a named cell library, or the path of a Liberty file"

$(READY): pyproject.toml constraints.txt tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh $(VENV)

venv: $(READY) ## set up .venv (every other target does so by itself)

demo: $(READY) ## compress a real network, generate Verilog, co-simulate three layers, report area
	@$(RUN) -m demo

test: $(READY) ## all tests, ruff and mypy among them
	@$(RUN) -m pytest

sim: $(READY) ## co-simulate every variant against the golden model; JUnit XML in build/sim
	@$(RUN) -m sim

synth: $(READY) ## area of every variant at 16 and 64, and delays at 64: build/synth/area.* and timing.*
	@$(RUN) -m synth $(LIBRARY)
	@$(RUN) -m synth.timing $(LIBRARY)

lint: $(READY) ## ruff and mypy alone
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

bench: $(READY) ## time the masked k-means beside scikit-learn's
	@$(RUN) benchmarks/kmeans_vs_sklearn.py

docs: $(READY) ## draw the pictures, and write the tables of README.md from the last results
	@$(RUN) -m tools.pictures
	@$(RUN) -m tools.readme

clean: ## remove what was built
	rm -rf build

distclean: clean ## remove .venv too
	rm -rf $(VENV) *.egg-info
