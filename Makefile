# `make demo` and `make test` set up what they need on a fresh machine.
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/installed
export OMP_NUM_THREADS ?= 1
UNIT := $(BIN)/pytest -q -m "not slow" -n auto --maxprocesses 8 --dist worksteal tests/unit
# Real processes on two busy cores meet a bound now and then: up to five tests get a second try each, and their first failure is printed.
RETRY := --reruns 1 --max-suite-reruns 5 --rerun-show-tracebacks

# Images of docker-compose.yml and of clusters; docs/compose.md.
DAPO_REPOSITORY ?= dapo
DAPO_TAG ?= latest
CPU_TORCH ?= https://download.pytorch.org/whl/cpu
BUILD = docker build $(BUILD_ARGS)

.PHONY: images help install demo test test-slow test-cluster test-compose test-gpu lint check fuzz format proto dashboards released clean

help:
	@echo "make demo       train a small model on this machine with the whole platform, about five minutes"
	@echo "make test       the tests: unit, integration, end to end"
	@echo "make test-slow  those that take long and show what others show, more thoroughly"
	@echo "make test-cluster  those of the launcher kubernetes, on a control plane that it builds and starts (Debian, as root)"
	@echo "make test-compose  docker-compose.yml on a Docker Engine, after make images: the demo trains, grows, survives"
	@echo "make test-gpu   those that need an NVIDIA GPU (docs/gpus.md)"
	@echo "make lint       style, types, and whether the messages still fit those of the last release"
	@echo "make check      lint and the unit tests, a few minutes"
	@echo "make fuzz       thousands of requests that fit the OpenAPI document or nearly do, against a live service"
	@echo "make proto      regenerate dapo/v1 from proto/, and docs/spec.md, metrics.md and openapi.json from the code"
	@echo "make dashboards regenerate deploy/grafana/dashboards from deploy/grafana/source"
	@echo "make released   keep the messages as they are now as those of a release: nothing of them may break from then on"
	@echo "make images     the images of docker-compose.yml (docs/compose.md)"
	@echo "make clean      remove the virtual environment, caches and build outputs (runs/ stays)"

install: $(STAMP)

$(STAMP): pyproject.toml requirements/sglang-cpu.txt requirements/cpu-lock.txt requirements/s3-server.txt scripts/install.sh
	bash scripts/install.sh
	@touch $@

demo: install
	$(BIN)/dapo demo

test: install
	$(UNIT)
	$(BIN)/pytest -m "not slow" $(RETRY) tests/integration tests/e2e

test-slow: install
	$(BIN)/pytest -m slow $(RETRY) tests/unit tests/integration tests/e2e

test-cluster: install
	scripts/control_plane.sh build
	DAPO_TEST_KUBECONFIG=$$(scripts/control_plane.sh start) $(BIN)/pytest tests/integration/orchestrator/kubernetes tests/e2e/cluster; \
	  status=$$?; scripts/control_plane.sh stop; exit $$status

test-compose: install
	DAPO_TEST_COMPOSE=1 $(BIN)/pytest tests/e2e/compose

test-gpu: install
	$(BIN)/pytest tests/gpu

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint proto
	$(BIN)/buf breaking proto --against proto/released.binpb

check: lint
	$(UNIT)

fuzz: install
	DAPO_FUZZ_EXAMPLES=150 $(BIN)/pytest -q tests/integration/orchestrator/service/test_schema.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: install
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. --grpc_python_out=. proto/dapo/v1/run.proto
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. proto/dapo/v1/messages.proto
	$(BIN)/python -m dapo.spec.reference > docs/spec.md
	$(BIN)/python -m dapo.telemetry.reference > docs/metrics.md
	$(BIN)/python -m services.orchestrator.api > docs/openapi.json

dashboards: install
	$(BIN)/python -m deploy.grafana.source

released: install
	$(BIN)/buf build proto --exclude-source-info -o proto/released.binpb

images:
	$(BUILD) -t $(DAPO_REPOSITORY)/orchestrator:$(DAPO_TAG) -f deploy/docker/orchestrator.Dockerfile .
	$(BUILD) -t $(DAPO_REPOSITORY)/verifier:$(DAPO_TAG) -f deploy/docker/verifier.Dockerfile .
	$(BUILD) -t $(DAPO_REPOSITORY)/learner-cpu:$(DAPO_TAG) --build-arg TORCH_INDEX=$(CPU_TORCH) -f deploy/docker/learner.Dockerfile .
	$(BUILD) -t $(DAPO_REPOSITORY)/learner:$(DAPO_TAG) -f deploy/docker/learner.Dockerfile .
	$(BUILD) -t $(DAPO_REPOSITORY)/generator-cpu:$(DAPO_TAG) --build-arg TORCH_INDEX=$(CPU_TORCH) --target cpu -f deploy/docker/generator.Dockerfile .
	$(BUILD) -t $(DAPO_REPOSITORY)/generator:$(DAPO_TAG) --target cuda -f deploy/docker/generator.Dockerfile .

clean:
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
