# Two commands for newcomers: `make demo` and `make test`. Everything else is a step of them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What survives a clone lives outside of it.
export ASYNCTASK_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/asynctask-operator
export CARGO_TARGET_DIR ?= $(ASYNCTASK_CACHE)/target
export CARGO_TERM_PROGRESS_WHEN ?= never

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
BIN := $(CARGO_TARGET_DIR)/debug
# The agent is linked statically, which is another world for rustc: its own folder keeps the two from rebuilding each other.
AGENT_TARGET := $(ASYNCTASK_CACHE)/target-agent
AGENT := $(AGENT_TARGET)/$(HOST)/agent/asynctask-agent
# What is measured is built as it is shipped.
MEASURED := $(ASYNCTASK_CACHE)/target-measured
ON_PATH := $(ASYNCTASK_CACHE)/path

# Everything that is tested is resolved together, so that dependencies are built once.
CARGO_FEATURES := --locked --workspace
cluster = tests/cluster/cluster
NAME ?= demo

.PHONY: help
help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: demo
demo: parts images ## Boots a cluster, installs the chart, runs the course outline and downloads its result
	@tests/demo.sh

.PHONY: demo-down
demo-down: ## Removes everything `make demo` made
	@$(cluster) down --name demo
	@rm -rf "$(ASYNCTASK_CACHE)/demo"

.PHONY: test
test: lint test-unit test-stores test-e2e test-faults ## Everything CI runs: lint, unit and store tests, and the real cluster, unharmed and harmed

.PHONY: test-unit
test-unit: ## Unit, property and agent tests; the examples' and the cluster tool's own
	@go vet -C tests/cluster . && go test -C tests/cluster .
	@go vet -C tests/kstatus . && go test -C tests/kstatus .
	@cd manifests/examples/course-outline && python3 -m unittest discover -q -s tests -t .
	@cargo test $(CARGO_FEATURES) --lib --bins --test architecture --test agent --test bench

.PHONY: test-stores
test-stores: cluster-build ## One suite on every kind of store, with real servers; prints the table; the gateway on a store without conditions
	@cargo test $(CARGO_FEATURES) --test storage -- --show-output every_store_keeps_every_promise
	@cargo test $(CARGO_FEATURES) --test storage -- --skip every_store_keeps_every_promise
	@ASYNCTASK_UNCONDITIONAL=1 cargo test $(CARGO_FEATURES) --lib gateway::

.PHONY: test-e2e
test-e2e: binaries cluster-build images ## Boots a cluster of its own and tests the installed chart on it
	@cargo test $(CARGO_FEATURES) --test e2e --no-run
	@E2E_AGENT="$(AGENT)" tests/e2e/run.sh

.PHONY: test-scale
test-scale: binaries cluster-build images ## On fake nodes: 1,000 runs through the queue, 500 requests to cancel raced
	@cargo test $(CARGO_FEATURES) --test e2e --no-run
	@E2E_AGENT="$(AGENT)" THREADS=1 SCALE_TASKS=1000 SCALE_RACES=500 tests/e2e/run.sh queue::many_runs races::

.PHONY: test-spread
test-spread: binaries cluster-build images ## On the real node: 200 shards whose pods are killed, a million items in the same memory
	@cargo test $(CARGO_FEATURES) --test e2e --no-run
	@E2E_AGENT="$(AGENT)" THREADS=1 SPREAD_SHARDS=200 SPREAD_ITEMS=1000000 tests/e2e/run.sh spread::whatever_is_killed memory::

.PHONY: test-away
test-away: binaries cluster-build images ## On the real node: a store that goes away for ten minutes in the middle of an upload and of a deletion
	@cargo test $(CARGO_FEATURES) --test e2e --no-run
	@E2E_AGENT="$(AGENT)" THREADS=1 STORE_AWAY=600 tests/e2e/run.sh away::

.PHONY: test-expired
test-expired: binaries cluster-build images ## On the real node: 10,000 outputs whose time is up, the operator killed meanwhile
	@cargo test $(CARGO_FEATURES) --test e2e --no-run
	@E2E_AGENT="$(AGENT)" THREADS=1 EXPIRED_RUNS=11 tests/e2e/run.sh expired::

.PHONY: test-transfer
test-transfer: binaries cluster-build images ## On the real node: 1 GiB up and down, beside `aws s3 cp`, and through the gateway
	@cargo test $(CARGO_FEATURES) --test e2e --no-run
	@E2E_AGENT="$(AGENT)" THREADS=1 TRANSFER_SIZE=1073741824 TRANSFER_ROUNDS=3 tests/e2e/run.sh transfer::

.PHONY: test-faults
test-faults: binaries cluster-build images ## Crashes the operator at every write, loses answers, serves old views; prints a table
	@cargo test $(CARGO_FEATURES) --test faults --no-run
	@FAULTS_OPERATOR="$(BIN)/asynctask-operator" tests/faults/run.sh

.PHONY: test-faults-full
test-faults-full: binaries cluster-build images ## The same with every scenario, refusals, delays and a leader that sleeps
	@cargo test $(CARGO_FEATURES) --test faults --no-run
	@FAULTS_OPERATOR="$(BIN)/asynctask-operator" tests/faults/run.sh --include-ignored

.PHONY: bench
bench: cluster-build ## Measures the budgets on a cluster of its own, beside raw Jobs; wants the machine for itself
	@CARGO_TARGET_DIR="$(MEASURED)" cargo build $(CARGO_FEATURES) --release --bin asynctask-operator --bin asynctask-gateway
	@CARGO_TARGET_DIR="$(MEASURED)" cargo test $(CARGO_FEATURES) --release --test bench --no-run
	@CARGO_TARGET_DIR="$(MEASURED)" tests/bench/run.sh

.PHONY: bench-accept
bench-accept: ## Makes the figures of the last `make bench` the baseline, and puts them into the book
	@CARGO_TARGET_DIR="$(MEASURED)" cargo test $(CARGO_FEATURES) --release --test bench -- --ignored the_last_run_becomes_the_baseline

.PHONY: lint
lint: generate-check ## Generated files, format, clippy, each binary alone
	@cargo fmt --check
	@cargo clippy $(CARGO_FEATURES) --all-targets -- -D warnings
	@for part in controllers gateway agent cli api; do \
	  cargo clippy --quiet --locked --package "asynctask-$$part" -- -D warnings; \
	done

.PHONY: generate
generate: ## Writes the CRDs, the rendered chart and the OpenAPI document
	@tests/generate.sh .

.PHONY: generate-check
generate-check: cluster-build ## Fails when a generated file is not what `make generate` writes
	@tests/generate.sh --check

# Side by side: while one of the two compilers links, or waits for the network, the other has the processor.
.PHONY: parts
parts: ## Builds our programs and the parts of the cluster
	@$(MAKE) --no-print-directory -j2 binaries cluster-build

.PHONY: binaries
binaries: ## Builds operator, gateway, command line and agent
	@cargo build $(CARGO_FEATURES) --bin asynctask-operator --bin asynctask-gateway --bin kubectl-asynctask
	@CARGO_TARGET_DIR="$(AGENT_TARGET)" RUSTFLAGS="-C target-feature=+crt-static" \
	  cargo build --locked --profile agent --target $(HOST) --package asynctask-agent
	@mkdir -p "$(ON_PATH)" && ln -sf "$(BIN)/kubectl-asynctask" "$(ON_PATH)/kubectl-asynctask"

.PHONY: images
images: binaries cluster-build ## Builds the container images into the cache
	@manifests/images/build.sh --bin-dir "$(BIN)" --agent "$(AGENT)"

.PHONY: cluster-build
cluster-build: ## Builds the parts of the cluster that the cache lacks
	@$(cluster) build

.PHONY: cluster-up
cluster-up: cluster-build ## Boots the cluster NAME (default: demo)
	@$(cluster) up --name $(NAME)

.PHONY: cluster-down
cluster-down: ## Stops the cluster NAME and removes its state
	@$(cluster) down --name $(NAME)

.PHONY: cluster-env
cluster-env: ## Prints exports for kubectl, helm and kubectl-asynctask: eval "$(make -s cluster-env)"
	@$(cluster) env --name $(NAME) --path "$(ON_PATH)"
