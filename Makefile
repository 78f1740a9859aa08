# Each target first brings .venv up to date, which takes a fraction of a second when it is. No root, no activation.
PYTHON ?= python3
BIN := .venv/bin
SCENARIO ?= mixed
EXAMPLES := $(addprefix adapters/loramux_adapters/examples/,support-intent order-json house-tone)
.DEFAULT_GOAL := help
# Where this is set, every start would compile vLLM's sources again, in each of its processes: half a minute of CPU.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help runtime dev serve test test-fast lint format lock examples verdict bench-overhead bench-churn bench-finetune loadtest bench-client bench-crosscheck bench-ledger bench-page dashboards fuzz clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

runtime:
	@$(PYTHON) tools/setup.py

dev:
	@$(PYTHON) tools/setup.py dev

serve: runtime ## install everything and serve; ARGS="--port 9000" are passed on
	@exec $(BIN)/loramux serve $(ARGS)

test: dev ## install everything and run all the tests: those without an engine first
	$(BIN)/python -m pytest -m "not engine" $(ARGS)
	$(BIN)/python -m pytest -m engine $(ARGS)

test-fast: dev ## run the unit tests that take under a second each, on up to 4 cores; ARGS="-k keys" for some of them
	$(BIN)/python -m pytest -m "not engine and not slow" --hypothesis-profile=dev -n logical --maxprocesses=4 --dist=worksteal $(ARGS)

lint: dev ## check style, layout and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev ## lay the code out and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## pin anew what requirements/*.in ask for; ARGS="--upgrade" takes newer versions
	@$(PYTHON) tools/lock.py $(ARGS)

examples: dev ## make the example adapters' data again and train them; to measure them, see adapters/loramux_adapters/examples/README.md
	$(BIN)/python adapters/loramux_adapters/examples/generate.py
	for folder in $(EXAMPLES); do $(BIN)/loramux train --base demo \
	  --data $$folder/train.jsonl --recipe $$folder/recipe.yaml --output $$folder || exit 1; done

verdict: dev ## is a fine-tune worth it? the examples against the prompted base; ARGS="--url URL --limit N"
	$(BIN)/python -m benchmarks.verdict $(ARGS)

bench-overhead: dev ## compare loramux with stock vLLM on this machine; ARGS="--quick" for a trial run
	$(BIN)/python -m benchmarks.overhead $(ARGS)

bench-churn: dev ## compare with stock vLLM while many adapters load and unload; ARGS="--only gaps" for one part
	$(BIN)/python -m benchmarks.churn $(ARGS)

bench-finetune: dev ## measure fine-tuning quality, and serving during training; ARGS="--data FOLDER"
	$(BIN)/python -m benchmarks.finetune $(ARGS)

loadtest: dev ## load-test loramux and stock vLLM, into loadtest-reports; SCENARIO=mixed, or ARGS="--url URL" for a running server
	$(BIN)/loramux loadtest run $(SCENARIO) $(or $(ARGS),--server loramux --server stock)

bench-client: dev ## measure the latency that the load test's client adds; ARGS="--rate 500" for another rate
	$(BIN)/python -m benchmarks.client_overhead $(ARGS)

bench-crosscheck: dev ## compare the load test's results with those of vLLM's benchmark
	$(BIN)/python -m benchmarks.crosscheck $(ARGS)

bench-ledger: dev ## measure how fast the usage ledger is; ARGS="--hours 6" for less
	$(BIN)/python -m benchmarks.ledger $(ARGS)

bench-page: dev ## measure how fast /dashboard shows a million requests, in a real browser
	$(BIN)/python -m benchmarks.page $(ARGS)

dashboards: dev ## write Grafana's dashboards again, after a change in deploy/grafana
	$(BIN)/python -m deploy.grafana.generate

fuzz: dev ## look for adapters that the validator misjudges, until one is found; ARGS="-max_total_time=60" for a minute
	$(BIN)/python tests/fuzz/fuzz_validation.py $(ARGS)

clean: ## remove the environment and what the checks leave (models and adapters in .loramux stay)
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
