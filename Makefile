# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BUDGET ?= default
ACTIVATE := . .venv/bin/activate

.PHONY: demo ui test faults check

demo: .venv/installed  ## The whole story on SmolLM2, into ./mlflow.db; BUDGET=quick is shorter.
	$(ACTIVATE) && mlflow run . --env-manager local -P budget=$(BUDGET)

ui: .venv/installed  ## MLflow on http://127.0.0.1:5000, over ./mlflow.db.
	$(ACTIVATE) && MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --host 127.0.0.1 --workers 1

test: .venv/installed  ## All tests.
	$(ACTIVATE) && python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

faults: .venv/installed  ## Each fault many times, for eleven minutes; prints the table of docs/reliability.md.
	$(ACTIVATE) && python -m pytest -q -m faults

check: .venv/installed  ## Lint, format and types.
	$(ACTIVATE) && ruff check . && ruff format --check . && mypy

.venv/installed: conda.yaml pyproject.toml
	$(PYTHON) -m venv .venv
	$(ACTIVATE) && python -m pip install --quiet --editable '.[dev]'
	touch $@
