# Everything runs in .venv, which is made on first use. `make` alone lists the targets.

# The interpreter that .venv is made from; any Python >= 3.11. Used only while there is no .venv.
PYTHON ?=
# `make synth`: a named library (generic, osu018, ...) or the path of a Liberty file.
PDK ?=
LIB ?=
# `make board`: python -m hw.board --list
BOARD ?= ulx3s-85f

LIBRARY = $(if $(PDK),--pdk "$(PDK)") $(if $(LIB),--lib "$(LIB)")
# Tests run on all cores; neighbours stay together, as they share models and networks, until a worker runs out of work.
PARALLEL = --numprocesses logical --maxprocesses 16 --dist worksteal
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

# Also where the surroundings have set it: hundreds of processes of `make test` read what the first has compiled.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: studies help venv board board-test demo test test-full sim robustness sequences grid random networks resnet20 resnet18 efficientnet deit vit large odd estimates speed synth papers explore report levers narrow power lint bench bytes docs site clean distclean formal fuzz faults mutants
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=...   the interpreter to make .venv from (Python 3.11 or newer)"
	@echo "  CIFAR10=... PICTURE=...   for make resnet20 and efficientnet: paths of CIFAR-10 and of a photograph"
	@echo "  BOARD=...   for make board; .venv/bin/python -m hw.board --list lists them"
	@echo "  PDK=... LIB=...   for make synth: a named cell library, or the path of a Liberty file"

$(READY): pyproject.toml constraints.txt tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh $(VENV)

venv: $(READY) ## set up .venv (every other target does so by itself)

demo: $(READY) ## compress a real network, generate Verilog, co-simulate three layers, report area
	@$(RUN) -m demo

test: $(READY) ## a part of each kind of test, ruff and mypy among them, on all cores
	@$(RUN) -m pytest $(PARALLEL)

sim: $(READY) ## co-simulate every variant against the golden model; JUnit XML in build/sim
	@$(RUN) -m sim

robustness: $(READY) ## the accelerator meets every kind of error, abort and reset, and recovers
	@$(RUN) -m pytest --full tests/sim/accelerator/test_robustness.py

sequences: $(READY) ## 1,000 random sequences of doorbell, abort, interrupt and reset on the RTL
	@$(RUN) -m pytest --full tests/sim/accelerator/test_sequences.py

test-full: $(READY) ## all tests, and the whole of each that make test samples: hours
	@$(RUN) -m pytest --full $(PARALLEL)

grid: $(READY) ## instances all over the configuration space: lint, and a layer or network bit for bit
	@$(RUN) -m pytest --full tests/hw/test_accelerator_grid.py

random: $(READY) ## random networks on random instances, and random modules: refused by name, or of the same function
	@$(RUN) -m pytest --full tests/sw/compiler/test_random_networks.py
	@$(RUN) -m pytest --full tests/sw/compress/frontend/test_random_modules.py

networks: resnet20 resnet18 efficientnet deit vit speed ## all whole networks on the RTL, and the tables of speed

resnet20: $(READY) ## ResNet-20 on the RTL of every variant, 20 images (CIFAR10=PATH)
	@$(RUN) -m sim.networks resnet20 --output docs/results

resnet18: $(READY) ## ResNet-18 at 224 x 224 on the RTL of ews-cms-16 and ews-16, random weights
	@$(RUN) -m sim.networks resnet18 --output docs/results

efficientnet: $(READY) ## EfficientNet-Lite0 at 224 x 224 on the RTL of ews-cms-16 (PICTURE=FILE)
	@$(RUN) -m sim.networks efficientnet-lite0 --output docs/results

deit: $(READY) ## the linear layers of DeiT-tiny on the RTL of ews-ssvq-32, random weights
	@$(RUN) -m sim.networks deit-tiny --output docs/results

vit: $(READY) ## DeiT-tiny whole, attention and the host's hand-over among it, on the RTL of ews-ssvq-32, random weights
	@$(RUN) -m sim.networks vit --output docs/results

odd: $(READY) ## odd but ordinary networks, from torch's graph to the RTL, bit for bit: ten minutes
	@$(RUN) -m sim.networks.odd --output docs/results

estimates: $(READY) ## the estimate of sw.perf beside the RTL's counters, layer by layer
	@$(RUN) -m sim.networks.estimates --output docs/results

large: $(READY) ## ResNet-18 and layers of DeiT-tiny on the RTL of five 64 x 64 arrays: 20 minutes
	@$(RUN) -m sim.networks resnet18-64 deit-tiny-64 --output docs/results

narrow: $(READY) ## the networks on the RTL of arrays of 4-bit weights (CIFAR10=PATH PICTURE=FILE)
	@$(RUN) -m sim.networks resnet20-narrow resnet18-64-narrow efficientnet-lite0-narrow deit-tiny-narrow vit-narrow

formal: $(READY) ## proofs about blocks, by induction or up to a bound: build/formal/formal.md
	@$(RUN) -m formal

fuzz: $(READY) ## a million damaged files for every reader of files, hours: build/fuzz/fuzz.json
	@$(RUN) -m tests.fuzz

mutants: $(READY) ## changed sources that the tests must find, hours: build/mutants/mutants.json
	@$(RUN) -m tests.mutants --larger

faults: $(READY) ## kill -9 each command at 50 random moments and run it again, an hour: build/faults/faults.json
	@$(RUN) -m tests.faults
	@$(RUN) -m pytest --full tests/faults

speed: $(READY) ## cycles of compressed beside 8-bit weights, from the cycle model
	@$(RUN) -m sim.networks.speed --output docs/results

board: $(READY) ## a bitstream that tests itself: build/board/BOARD-digits/top.bit (BOARD=ulx3s-85f)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[board]'
	@$(RUN) -m hw.board --board $(BOARD)

board-test: $(READY) ## the board in simulation: digits over all test images, and the netlist of one layer
	@$(RUN) -m pytest --full tests/fpga

synth: $(READY) ## area of every variant at 16 and 64, of whole accelerators, and delays: build/synth/*.md, *.json
	@$(RUN) -m synth $(LIBRARY)

levers: $(READY) ## what could make the narrow array smaller (PDK=, LIB=): build/synth/levers.*
	@$(RUN) -m synth.levers $(LIBRARY)

papers: $(READY) ## the papers' tables and ours beside them: docs/papers.md
	@$(RUN) -m synth.papers
	@$(RUN) -m tools.papers

explore: $(READY) ## area and cycles of 216 instances at 16 x 16, and the Pareto front: build/explore
	@$(RUN) -m synth.explore $(LIBRARY) --sweep preset=ews-cms-16,ews-msvq-16 --sweep N:M=2:8,4:16,8:16 --sweep k=16,32,64,128,256,512 --sweep weight_bits=4,8 --sweep word_width=32,64,128 --study table3-resnet18 --objectives area,cycles

report: $(READY) ## all results on one page, pictures first: build/report/index.html
	@$(RUN) -m tools.report

power: $(READY) ## energy of the variants at 16 and 64 from gate-level simulation (PDK=, LIB=): build/synth/power.*
	@$(RUN) -m synth.power $(LIBRARY)

studies: $(READY) ## the whole way of each study of accuracy, on tiny networks
	@$(RUN) -m pytest --full $(PARALLEL) tests/experiments

lint: $(READY) ## ruff and mypy alone
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

bench: $(READY) ## time the masked k-means beside scikit-learn's
	@$(RUN) benchmarks/kmeans_vs_sklearn.py

bytes: $(READY) ## Verilog, containers and programs of all presets and committed networks are the committed bytes
	@$(RUN) -m pytest --full tests/tools/test_digests.py

docs: $(READY) ## draw the pictures, and write the tables of README.md from the last results
	@$(RUN) -m tools.pictures
	@$(RUN) -m tools.answers
	@$(RUN) -m tools.tasks
	@$(RUN) -m tools.comparison
	@$(RUN) -m tools.papers
	@$(RUN) -m tools.power
	@$(RUN) -m tools.boards
	@$(RUN) -m tools.readme
	@$(RUN) -m tools.first
	@mkdir -p build && $(RUN) -m hw.bus.register_map markdown > build/registers.md && mv build/registers.md docs/
	@$(RUN) -m hw.control.descriptor > build/descriptors.md && mv build/descriptors.md docs/

site: $(READY) ## build the documentation as a site, strictly: build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo build/site/index.html

clean: ## remove what was built
	rm -rf build

distclean: clean ## remove .venv too
	rm -rf $(VENV) *.egg-info
