PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-engines lint clean

.venv/ready: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[native]'
	touch $@

.venv/test-ready: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@

demo: .venv/ready
	rm -rf demo-output
	$(BIN)/dsdeploy synth demo-output/fp8
	$(BIN)/dsdeploy inspect demo-output/fp8
	$(BIN)/dsdeploy convert demo-output/fp8 demo-output/bf16
	$(BIN)/dsdeploy inspect --deep demo-output/bf16
	$(BIN)/python demo.py demo-output/bf16

lint: .venv/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 3

test-engines: .venv/test-ready
	tests/engines/run

clean:
	rm -rf .venv .engines demo-output build dist
