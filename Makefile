# `make check` in a minute, `make test` in less than twenty, `make demo` to see it. Everything else is a step of them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What survives a clone lives outside of it.
export ASYNCTASK_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/asynctask-operator
export CARGO_TARGET_DIR ?= $(ASYNCTASK_CACHE)/target
export CARGO_TERM_PROGRESS_WHEN ?= never
REPORT := $(ASYNCTASK_CACHE)/report

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
BIN := $(CARGO_TARGET_DIR)/debug
# The agent is linked statically, which is another world for rustc: its own folder keeps the two from rebuilding each other.
AGENT_TARGET := $(ASYNCTASK_CACHE)/target-agent
AGENT := $(AGENT_TARGET)/$(HOST)/agent/asynctask-agent
# What is measured is built as it is shipped.
MEASURED := $(ASYNCTASK_CACHE)/target-measured
ON_PATH := $(ASYNCTASK_CACHE)/path
# Unit tests store many small files, and each waits for the disk unless it is memory.
FAST_TMP := $(firstword $(wildcard /dev/shm) $(TMPDIR) /tmp)

# Everything that is tested is resolved together, so that dependencies are built once.
EVERYTHING := --locked --workspace
# The longest tests first.
ROOMS := plan gateway controllers storage agent cli runtime api contract
cluster = tests/cluster/cluster
# A stage: its lines are shown with its name before them, and its seconds are kept for the report.
stage = tests/runner.py stage $@ --
suite = $(stage) tests/runner.py suite
NAME ?= demo
SUITE ?= shared

.PHONY: help
help: ## Lists the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: check
check: ## In a minute, Rust only: format, clippy, unit, property and architecture tests
	@cargo fmt --check
	@cargo clippy $(EVERYTHING) --all-targets -- -D warnings
	@cargo test --quiet $(EVERYTHING) --no-run --message-format=json-render-diagnostics --lib --test architecture | tests/runner.py found
	@rm -rf "$(ASYNCTASK_CACHE)/check"
	@TMPDIR=$(FAST_TMP) TEST_REPORT=$(ASYNCTASK_CACHE)/check tests/runner.py suite $(ROOMS:%=asynctask_%) architecture

.PHONY: check-budget
check-budget: ## How long `make check` takes, with nothing changed and after one line in each of three rooms
	@tests/check-budget.sh

.PHONY: demo
demo: parts images ## Boots a cluster, installs the chart, runs the course outline and downloads its result
	@tests/demo.sh

.PHONY: demo-down
demo-down: ## Removes everything `make demo` made
	@$(cluster) down --name demo
	@rm -rf "$(ASYNCTASK_CACHE)/demo"

# All beside each other: while one waits for a pod, another has the processors.
.PHONY: test
test: ## Everything CI runs: check, stores, and real clusters, unharmed and harmed; what took how long
	@rm -rf "$(REPORT)"
	@code=0; export TEST_REPORT="$(REPORT)"; \
	  $(MAKE) --no-print-directory -j --keep-going test-e2e test-faults test-unit test-stores lint || code=$$?; \
	  tests/runner.py show $$code

# Long forms, one at a time: they want the machine for themselves.
LONG := scale spread away expired transfer harm crowd kueue mixture
.PHONY: test-long
test-long: export TEST_REPORT := $(REPORT)
test-long: suites ## Every long form, hours: each room alone, e2e suites, faults at every write; prints a table
	@rm -rf "$(REPORT)"
	@code=0; \
	  $(MAKE) --no-print-directory alone || code=$$?; \
	  for suite in $(LONG); do $(MAKE) --no-print-directory e2e SUITE=$$suite || code=$$?; done; \
	  $(MAKE) --no-print-directory test-faults-full || code=$$?; \
	  tests/runner.py table $$code

.PHONY: test-unit
test-unit: unit agent-suite go-tests example-tests ## Unit, property and agent tests; the examples' and the cluster tool's own

.PHONY: unit
unit: suites
	@TMPDIR=$(FAST_TMP) $(suite) $(ROOMS:%=asynctask_%) architecture bench

.PHONY: agent-suite
agent-suite: suites
	@$(suite) agent

.PHONY: go-tests
go-tests:
	@$(stage) bash -ec 'for tool in cluster kstatus; do go vet -C tests/$$tool . && go test -C tests/$$tool .; done'

.PHONY: example-tests
example-tests:
	@$(stage) bash -c 'cd manifests/examples/course-outline && python3 -m unittest discover -q -s tests -t .'

.PHONY: test-stores
test-stores: suites stores-build ## One suite on every kind of store, with real servers; prints the table; the gateway on a store without conditions
	@$(suite) storage --show every_store_keeps_every_promise
	@TMPDIR=$(FAST_TMP) ASYNCTASK_UNCONDITIONAL=1 tests/runner.py stage gateway-unconditional -- tests/runner.py suite asynctask_gateway --as unconditional

.PHONY: test-e2e
test-e2e: e2e-shared e2e-serial ## The installed chart on real clusters: many tests beside each other, and those that need one for themselves

.PHONY: e2e-shared e2e-serial
e2e-shared e2e-serial: suites images cluster-fakes
	@E2E_AGENT="$(AGENT)" $(stage) tests/e2e/run.sh $(@:e2e-%=%)

.PHONY: e2e
e2e: suites images cluster-fakes ## One end-to-end suite, SUITE=shared, serial, or a long form: scale, spread, away, expired, transfer, harm, crowd, kueue, mixture
	@E2E_AGENT="$(AGENT)" tests/runner.py stage e2e-$(SUITE) -- tests/e2e/run.sh $(SUITE)

.PHONY: test-faults
test-faults: suites images cluster-fakes ## Crashes the operator at some writes, loses answers, serves old views; prints a table
	@FAULTS_OPERATOR="$(BIN)/asynctask-operator" tests/runner.py stage faults -- tests/faults/run.sh short

.PHONY: test-faults-full
test-faults-full: suites images cluster-fakes ## The same at every write, with refusals, delays and a leader that sleeps
	@FAULTS_OPERATOR="$(BIN)/asynctask-operator" tests/runner.py stage faults-full -- tests/faults/run.sh full

.PHONY: bench
bench: cluster-fakes ## Measures the budgets on a cluster of its own, beside raw Jobs; wants the machine for itself
	@CARGO_TARGET_DIR="$(MEASURED)" cargo build $(EVERYTHING) --release --bin asynctask-operator --bin asynctask-gateway
	@CARGO_TARGET_DIR="$(MEASURED)" cargo test $(EVERYTHING) --release --test bench --no-run
	@CARGO_TARGET_DIR="$(MEASURED)" tests/bench/run.sh

.PHONY: bench-accept
bench-accept: ## Makes the figures of the last `make bench` the baseline, and puts them into the book
	@CARGO_TARGET_DIR="$(MEASURED)" cargo test $(EVERYTHING) --release --test bench -- --ignored the_last_run_becomes_the_baseline

.PHONY: lint
lint: fmt generate-check clippy ## Generated files, format, clippy

.PHONY: fmt
fmt:
	@$(stage) cargo fmt --check

# After what tests wait for: cargo does one thing at a time. With what the processors have left: nobody waits for it.
.PHONY: clippy
clippy: | suites
	@$(stage) nice -n 19 cargo clippy $(EVERYTHING) --all-targets -- -D warnings

# A crate by itself has only the features that it asks for: many dependencies are compiled again, which takes minutes once.
.PHONY: alone
alone: ## Checks that each room is complete without what the others ask for
	@$(stage) bash -ec 'for room in $(ROOMS); do cargo clippy --quiet --locked --package asynctask-$$room -- -D warnings; done'

.PHONY: generate
generate: binaries cluster-build ## Writes the CRDs, the rendered chart and the OpenAPI document
	@tests/generate.sh .

.PHONY: generate-check
generate-check: binaries cluster-build ## Fails when a generated file is not what `make generate` writes
	@$(stage) tests/generate.sh --check

# Side by side: while one of the two compilers links, or waits for the network, the other has the processor.
.PHONY: parts
parts: ## Builds our programs and the parts of the cluster
	@$(MAKE) --no-print-directory -j2 binaries cluster-build

.PHONY: binaries
binaries: ## Builds operator, gateway, command line and agent
	@$(stage) cargo build $(EVERYTHING) --bin asynctask-operator --bin asynctask-gateway --bin kubectl-asynctask --bin crdgen
	@CARGO_TARGET_DIR="$(AGENT_TARGET)" RUSTFLAGS="-C target-feature=+crt-static" tests/runner.py stage agent -- \
	  cargo build --locked --profile agent --target $(HOST) --package asynctask-agent
	@mkdir -p "$(ON_PATH)" && ln -sf "$(BIN)/kubectl-asynctask" "$(ON_PATH)/kubectl-asynctask"

.PHONY: suites
suites: binaries ## Compiles every test suite
	@$(stage) bash -o pipefail -c 'cargo test $(EVERYTHING) --no-run --message-format=json-render-diagnostics | tests/runner.py found'

.PHONY: images
images: binaries cluster-build ## Builds the container images into the cache
	@$(stage) manifests/images/build.sh --bin-dir "$(BIN)" --agent "$(AGENT)"

.PHONY: cluster-build
cluster-build: ## Builds the parts of the cluster that the cache lacks
	@$(stage) $(cluster) build

.PHONY: cluster-fakes
cluster-fakes: | cluster-build
	@$(stage) $(cluster) build kwok

# Servers of stores; with what the processors have left, as nobody else waits for them.
.PHONY: stores-build
stores-build: | cluster-fakes
	@$(stage) nice -n 15 $(cluster) build gcs minio

.PHONY: cluster-up
cluster-up: cluster-build ## Boots the cluster NAME (default: demo)
	@$(cluster) up --name $(NAME)

.PHONY: cluster-down
cluster-down: ## Stops the cluster NAME and removes its state
	@$(cluster) down --name $(NAME)

.PHONY: cluster-env
cluster-env: ## Prints exports for kubectl, helm and kubectl-asynctask: eval "$(make -s cluster-env)"
	@$(cluster) env --name $(NAME) --path "$(ON_PATH)"
