# Each target first updates .venv, which takes a fraction of a second if nothing changed. No root, no activation.
PYTHON ?= python3
BIN := .venv/bin
SCENARIO ?= mixed
PIP_AUDIT := 2.10.1
EXAMPLES := $(addprefix adapters/loramux_adapters/examples/,support-intent order-json house-tone)
.DEFAULT_GOAL := help
# With this variable set, each process of every start would compile vLLM's sources again: half a minute of CPU.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help runtime dev serve test test-fast test-cuda-path matrix lint format lock audit examples verdict bench-overhead bench-churn bench-finetune loadtest bench-client bench-crosscheck bench-coverage bench-ledger bench-costs bench-page bench-import bench-fairness docs dashboards fuzz check-vllm clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

runtime:
	@$(PYTHON) tools/setup.py

dev:
	@$(PYTHON) tools/setup.py dev

serve: runtime ## install everything and serve; ARGS="--port 9000" is passed on
	@exec $(BIN)/loramux serve $(ARGS)

test: dev ## install everything and run all the tests: those without an engine first
	$(BIN)/python -m pytest -m "not engine and not cuda_path" -n 2 --dist=loadfile $(ARGS)
	$(BIN)/python -m pytest -m engine $(ARGS)
	$(BIN)/python -m tests.cuda_path $(ARGS)

test-fast: dev ## run the quick unit tests, in about a minute on two cores; ARGS="-k keys" for some of them
	$(BIN)/python -m pytest -m "not engine and not cuda_path and not slow" --hypothesis-profile=dev -n 3 --dist=worksteal $(ARGS)

test-cuda-path: dev ## run vLLM's code for GPUs on this CPU, its kernels interpreted; ARGS="-k NaN" for some of the tests
	$(BIN)/python -m tests.cuda_path $(ARGS)

matrix: dev ## compare adapters of many architectures with PEFT, and write docs/architectures.md; ARGS="-k Qwen" for some of them
	RECORD_MATRIX=1 $(BIN)/python -m pytest tests/matrix $(ARGS)

lint: dev ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-vllm: dev ## check all that is used of vLLM in the newest version, or in VERSION=0.33.0
	$(BIN)/python -m tools.check_vllm $(VERSION)

lock: ## pin the dependencies of requirements/*.in again; ARGS="--upgrade" takes newer versions
	@$(PYTHON) tools/lock.py $(ARGS)

audit: ## compare the pinned versions with published vulnerabilities, over the network
	$(PYTHON) -m venv .tools/audit && .tools/audit/bin/python -m pip install --quiet pip-audit==$(PIP_AUDIT)
	.tools/audit/bin/pip-audit --no-deps --disable-pip \
	  -r requirements/cpu.txt -r requirements/cuda.txt -r requirements/dev.txt \
	  $$(sed -n 's/^\([A-Z][^ ]*\) .*/--ignore-vuln \1/p' requirements/audit-ignored.txt) $(ARGS)

examples: dev ## generate the data of the example adapters and train them again
	$(BIN)/python adapters/loramux_adapters/examples/generate.py
	for folder in $(EXAMPLES); do $(BIN)/loramux train --base demo \
	  --data $$folder/train.jsonl --recipe $$folder/recipe.yaml --output $$folder || exit 1; done

verdict: dev ## compare the example fine-tunes with the prompted base; ARGS="--url URL --limit N --no-record"
	$(BIN)/python -m benchmarks.verdict $(ARGS)

bench-overhead: dev ## compare loramux with stock vLLM on this machine; ARGS="--quick" for a trial run
	$(BIN)/python -m benchmarks.overhead $(ARGS)

bench-churn: dev ## compare with stock vLLM while many adapters load and unload; ARGS="--only gaps" for one part
	$(BIN)/python -m benchmarks.churn $(ARGS)

bench-finetune: dev ## measure fine-tuning quality, estimated durations, and serving during training; ARGS="--data FOLDER"
	$(BIN)/python -m benchmarks.finetune $(ARGS)

loadtest: dev ## load-test loramux and stock vLLM, into loadtest-reports; SCENARIO=mixed, or ARGS="--url URL" for a running server
	$(BIN)/loramux loadtest run $(SCENARIO) $(or $(ARGS),--server loramux --server stock)

bench-client: dev ## measure the latency that the load test's client adds; ARGS="--rate 500" for another rate
	$(BIN)/python -m benchmarks.client_overhead $(ARGS)

bench-crosscheck: dev ## compare the load test's results with those of vLLM's benchmark
	$(BIN)/python -m benchmarks.crosscheck $(ARGS)

bench-coverage: dev ## simulate how often confidence intervals contain the truth
	$(BIN)/python -m benchmarks.coverage $(ARGS)

bench-ledger: dev ## measure how fast the usage ledger is; ARGS="--hours 6" for less
	$(BIN)/python -m benchmarks.ledger $(ARGS)

bench-costs: dev ## reconcile the costs of a million simulated requests to the nano-dollar
	$(BIN)/python -m benchmarks.reconciliation $(ARGS)

bench-page: dev ## measure how fast /dashboard shows a million requests, in a real browser
	$(BIN)/python -m benchmarks.page $(ARGS)

bench-import: dev ## kill an import of fine-tunes at random moments: nothing lost, nothing trained twice
	$(BIN)/python -m benchmarks.imports $(ARGS)

bench-fairness: dev ## measure how a busy server is shared; ARGS="--only flood --seconds 60" for one part
	$(BIN)/python -m benchmarks.fairness $(ARGS)

docs: dev ## build the documentation site into site/
	$(BIN)/python -m tools.docs.generate
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

dashboards: dev ## generate Grafana's dashboards from deploy/grafana
	$(BIN)/python -m deploy.grafana.generate

fuzz: dev ## fuzz the adapter validation until it finds a failure; ARGS="-max_total_time=60" for a minute
	$(BIN)/python tests/fuzz/fuzz_validation.py $(ARGS)

clean: ## remove the environment, caches and built files (models and adapters in .loramux stay)
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site docs/reference
