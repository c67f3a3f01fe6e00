# Two commands: `make demo` makes a video, `make test` checks everything. Both set themselves up.
# `make test-all` runs what takes longer: real videos, whole batches, two commits side by side.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest -q -n logical --dist loadfile

# `make studio` serves the studio on http://127.0.0.1:7860/.
.PHONY: demo studio test test-all check setup clean

demo: $(READY)
	@mkdir -p demo
	$(BIN)/tethercache generate "a red ball rolling over grass" --seconds 30 -o demo/red-ball.mp4 --overwrite

test: $(READY) check
	$(PYTEST) -m "not slow"

test-all: $(READY)
	$(PYTEST) -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

studio: $(READY)
	$(BIN)/tethercache serve

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache
