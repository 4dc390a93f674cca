# The one entry for people and CI. `make` lists the targets.

CARGO ?= cargo
# One set of tests either way; nextest shows them better.
TEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo "nextest run" || echo "test")

.PHONY: help setup build release demo demo-check test check fmt bench ui-test proto-agree clean-dev

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## Install what demo and tests need beside Rust.
	@packaging/setup.sh test

build: ## Build all daemons and labctl.
	$(CARGO) build --locked --workspace --bins

release: ## Build what is installed on hosts, into target/install.
	$(CARGO) build --locked --release --workspace --exclude homelab-agent --bins
	$(CARGO) build --locked --profile small --package homelab-agent --bins
	@mkdir -p target/install
	@cp target/small/homelab-agent target/install/
	@for name in homelab-controller homelab-backup-agent homelab-gpu-worker homelab-bench labctl; do \
	  cp "target/release/$$name" target/install/; done

demo: setup build ## Bring the main job up on real parts on loopback; Ctrl-C removes everything.
	@target/debug/homelab-demo

demo-check: setup build ## The same, asserted point by point through public interfaces, then torn down.
	@target/debug/homelab-demo --check

test: setup build ## Every test that a fresh machine can run.
	$(CARGO) $(TEST) --locked --workspace

check: ## Formatting, lints and documentation.
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; \
	  else echo "left out: cargo-deny is not installed (cargo install cargo-deny)"; fi

fmt: ## Format the code.
	$(CARGO) fmt --all

bench: ## Measure, each beside its peer in the same run; writes docs/benchmarks.md.
	@packaging/setup.sh bench
	@$(MAKE) --no-print-directory release
	@target/install/homelab-bench

ui-test: setup build ## Draw the dashboard with a real browser into target/ui.
	@packaging/setup.sh ui
	@target/debug/homelab-demo --screenshots target/ui

proto-agree: ## Accept the protocol as it is now as the one that peers rely on.
	UPDATE=1 $(CARGO) test --locked -p homelab-proto --test protocol

clean-dev: ## Remove the development engine, its model and tools.
	rm -rf .dev
