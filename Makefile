# `make demo` and `make test` set up what they need on a fresh machine.
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/installed
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo test check format proto clean

help:
	@echo "make demo    train a small model on this machine with the whole platform, about five minutes"
	@echo "make test    all tests: unit, integration, end to end"
	@echo "make check   lint, types and the fast tests"
	@echo "make proto   regenerate dapo/v1 from proto/ and docs/spec.md from the spec"
	@echo "make clean   remove the virtual environment, caches and build outputs (runs/ stays)"

install: $(STAMP)

$(STAMP): pyproject.toml requirements/sglang-cpu.txt requirements/cpu-lock.txt scripts/install.sh
	bash scripts/install.sh
	@touch $@

demo: install
	$(BIN)/dapo demo

test: install
	$(BIN)/pytest tests/unit tests/integration tests/e2e

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: install
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. --grpc_python_out=. proto/dapo/v1/run.proto
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. proto/dapo/v1/messages.proto
	$(BIN)/python -m dapo.spec.reference > docs/spec.md

clean:
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
