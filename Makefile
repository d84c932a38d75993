# Everything a machine needs is set up by `make demo` or `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install demo test check bench scores avatars avatars-smoke docs clean

install: $(STAMP)

# torch comes first and by its exact version: a bare `pip install torch` may fetch gigabytes of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: install
	$(BIN)/stylograph edit "a person wearing sunglasses" --seed 1 2 5 7 9 11 -o demo.png
	@echo "Open demo.png: originals above, edits below."

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks.optimization_step
	$(BIN)/python -m benchmarks.editing
	$(BIN)/python -m benchmarks.adaptation_step

# How good edits and adapted generators are, several hours in all; docs/benchmark.md. `stylograph bench --quick` takes a minute.
scores: install
	$(BIN)/python -m benchmarks.directions --images 8 --edits
	$(BIN)/python -m benchmarks.mapper
	$(BIN)/stylograph bench --out out/bench
	$(BIN)/python -m recipes.avatars.render --what styles
	$(BIN)/python -m benchmarks.adaptation

# The embedded models once more from nothing, in place of the shipped ones: some eight hours on a core. Goes on after a
# kill. WORDNET is the folder `dict` of WordNet 3; OPTIONS="--assets DIR" puts the models elsewhere, "--list" shows the steps.
avatars: install
	$(BIN)/python -m recipes.avatars.everything $(if $(WORDNET),--wordnet "$(WORDNET)") $(OPTIONS)

# Every step of it in miniature, in a temporary folder: half a minute.
avatars-smoke: install
	$(BIN)/python -m recipes.avatars.everything --smoke $(OPTIONS)

docs: install
	$(BIN)/pdoc stylograph -o site

clean:
	rm -rf $(VENV) demo.png
