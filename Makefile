# Thin on purpose: dev/bootstrap.sh brings what the machine lacks, quartermaster-dev does the rest.

# rustup changes only login shells.
export PATH := $(PATH):$(HOME)/.cargo/bin

# Built first and then started by itself: under `cargo run`, build scripts of a cargo inside it see other variables, and
# dependencies are compiled again.
build := cargo build --locked -p quartermaster-dev
target := "$${CARGO_TARGET_DIR:-target}"
dev := $(target)/debug/quartermaster-dev
image := $(target)/image

.PHONY: help demo test cluster down soak bench generate bootstrap

help: ## Say what the other targets do
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: bootstrap ## Start a control plane with fake GPU nodes, install Quartermaster, show how a budget is spent, stop it
	@dev/bootstrap.sh go helm
	@$(build) -p quartermaster
	@$(dev) with-cluster --nodes --local-node -- dev/demo.sh

test: ## Build, lint and test everything against a real control plane
	@dev/test.sh

cluster: bootstrap ## Start a control plane that stays, and print the two lines that make kubectl use it; LOCAL_NODE=yes: pods really run
	@$(build)
	@$(dev) cluster up --keep --nodes $(if $(LOCAL_NODE),--local-node)

down: ## Stop what 'make cluster' started, and clean what killed runs have left
	@dev/bootstrap.sh linker rust
	@$(build)
	@$(dev) cluster down --all

soak: ## Run the tests that take too long for 'make test'; MINUTES=60: how long the gateway's memory is watched
	@dev/bootstrap.sh python
	@dev/bootstrap.sh
	@$(build)
	@cargo test --workspace --locked --no-run
	@$(dev) with-cluster --nodes --local-node -- cargo test --workspace --locked --no-fail-fast -- --ignored --skip process_that_hangs
	@cargo bench -p quartermaster --bench gateway --locked -- soak $(or $(MINUTES),60)

# The gateway first, on a machine that does nothing else; with the binaries that the image has. They are put aside, since what is built for
# benches takes their place.
bench: bootstrap ## Measure
	@$(build)
	@-dev/bootstrap.sh python
	@cargo build --release -p quartermaster --locked
	@mkdir -p $(image) && cp $(target)/release/quartermaster $(target)/release/quartermaster-gateway $(image)
	@cargo bench -p quartermaster --bench '*' --locked --no-run
	@QUARTERMASTER=$(image)/quartermaster cargo bench -p quartermaster --bench gateway --locked
	@cargo bench -p quartermaster --bench rationing --locked
	@$(dev) with-cluster --nodes -- cargo bench -p quartermaster --bench operator --locked

generate: ## Write crds/ anew from the types
	@cargo build --locked -p quartermaster
	@cargo run --quiet --locked -- crds --directory crds

bootstrap:
	@dev/bootstrap.sh
