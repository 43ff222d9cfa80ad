# Everything that is done often in this repository. `make` lists it.

CARGO ?= cargo
TARGET = $(or $(CARGO_TARGET_DIR),target)
# Debug builds of all programs; the demo and the tests start them.
BINARIES = $(TARGET)/debug
# For which a static program is built.
HOST = $(shell rustc -vV | sed -n "s/^host: //p")
EXAMPLES = $(basename $(notdir $(wildcard examples/*.rs)))
CRDS = $(addprefix crds/,distributedlock.yaml semaphore.yaml readwritelock.yaml)

# The benchmark of peers is a workspace of its own, and shares the folder of what is built.
PEERS_TARGET = --manifest-path bench-peers/Cargo.toml --target-dir $(TARGET)
PEERS_GO = CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off go

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: binaries controlplane ## Watch locks at work in a control plane of their own
	$(BINARIES)/leasehold-demo $(ARGS)

.PHONY: example
example: controlplane-tool controlplane ## Run one of examples/ in the cluster of `make cluster`; NAME=job-queue
	@test -f "examples/$(NAME).rs" || { echo "make example NAME=<one of $(EXAMPLES)>" >&2; exit 64; }
	@$(CARGO) build --quiet --package leasehold-examples --bin $(NAME)
	@eval "$$($(BINARIES)/controlplane up)" && $(BINARIES)/$(NAME)

# Most tests wait for something to expire: more of them run at once than there are cores.
.PHONY: test
test: export RUST_TEST_THREADS ?= 5
# The web page is tested in Chromium, and where there is none in no browser: the tests say so.
test: export LEASEHOLD_TEST_CHROMIUM ?= $(shell for program in chromium chromium-browser google-chrome; do \
	command -v "$$program" && exit; done; echo none)
test: test-image binaries controlplane tools ## Run all tests against a real control plane
	$(BINARIES)/controlplane run -- $(CARGO) test --workspace $(ARGS)
	$(CARGO) test --package leasehold-operator --features otlp --lib otlp
	@$(MAKE) --no-print-directory package

.PHONY: package
package: binaries controlplane ## Package both crates, and use the client from outside as README.md says
	$(BINARIES)/controlplane run -- tests/package/run.sh

.PHONY: check
check: check-format check-lints check-features check-docs check-crds check-chart check-bugs check-deps ## Check format, lints, features, docs, generated files, dependencies

.PHONY: check-format
check-format:
	$(CARGO) fmt --all --check

.PHONY: check-lints
check-lints:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# The client without features, with each, and with all: nothing in it asks for two at once. What only tests need is not seen
# there. The operator has one feature.
.PHONY: check-features
check-features:
	@if command -v cargo-hack >/dev/null; then \
		$(CARGO) hack clippy --quiet --package leasehold --each-feature -- -D warnings; \
	else \
		echo "cargo-hack is not installed: features are checked together only" >&2; \
		echo "(cargo install cargo-hack --locked)" >&2; \
	fi
	$(CARGO) clippy --quiet --package leasehold-operator --features otlp --all-targets -- -D warnings

.PHONY: check-docs
check-docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --workspace --all-features

.PHONY: check-crds
check-crds:
	@$(CARGO) build --quiet --package leasehold-operator
	@for crd in $(CRDS); do \
		$(BINARIES)/leasehold-operator crds $$(basename $$crd .yaml) | diff -u $$crd - \
			|| { echo "$$crd is not what the code says; run: make crds" >&2; exit 1; }; \
	done

# The bugs that are planted to see them caught must fit the tree.
.PHONY: check-bugs
check-bugs:
	@for patch in prove/bugs/*.patch; do \
		git apply --check "$$patch" || { echo "$$patch does not apply any more: plant it anew" >&2; exit 1; }; \
	done

# Advisories are left out: they need a clone of a git repository.
.PHONY: check-deps
check-deps:
	@if command -v cargo-deny >/dev/null; then \
		$(CARGO) deny check --hide-inclusion-graph bans licenses sources; \
	else \
		echo "cargo-deny is not installed: licences and sources of dependencies are not checked" >&2; \
		echo "(cargo install cargo-deny --locked)" >&2; \
	fi

# The benchmark of peers is a workspace of its own. Its figures in docs/, if there are any, are those of a run.
.PHONY: check-peers
check-peers:
	cd bench-peers && $(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --locked --no-deps --all-targets $(PEERS_TARGET) -- -D warnings
	$(CARGO) test --quiet --locked --package bench-peers $(PEERS_TARGET)
	cd bench-peers/go && $(PEERS_GO) vet .
	@if [ -e docs/benchmarks.json ]; then \
		$(CARGO) run --quiet --locked --package bench-peers $(PEERS_TARGET) -- --from docs/benchmarks.json --check; \
	fi

.PHONY: prove
prove: controlplane ## Prove the guarantees: model, simulation, real faults, client-go (twenty minutes)
	$(CARGO) build --release --bins --package leasehold-prove --package leasehold-operator
	$(TARGET)/release/leasehold-prove all $(ARGS)

.PHONY: controls
controls: ## Plant every bug of prove/bugs, and see each caught (a minute or two each); ARGS=<names>
	prove/controls.sh $(ARGS)

.PHONY: torture
torture: binaries controlplane ## Let real faults befall real processes; DURATION=<seconds>, ARGS="--seed 2"
	$(BINARIES)/leasehold-prove torture $(if $(DURATION),--duration $(DURATION)) $(ARGS)

.PHONY: crds
crds: ## Write the resource definitions anew from the code
	@$(CARGO) build --quiet --package leasehold-operator
	@for crd in $(CRDS); do \
		$(BINARIES)/leasehold-operator crds $$(basename $$crd .yaml) > $$crd.new || { rm -f $$crd.new; exit 1; }; \
		mv $$crd.new $$crd; \
	done

.PHONY: screenshot
screenshot: binaries controlplane ## Take the picture in docs/ui.png anew (a minute or two; needs chromium)
	$(BINARIES)/controlplane run -- $(CARGO) test --package leasehold-e2e --test ui -- --ignored a_picture_of_the_page

.PHONY: image
image: ## Write the operator's image to target/image as an OCI layout, without Docker
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target $(HOST) \
		--package leasehold-operator --features otlp --bin leasehold-operator
	$(CARGO) run --quiet --package leasehold-image -- --program $(TARGET)/$(HOST)/release/leasehold-operator

# The same of what the tests build anyway: quick, and not optimized. The program is built again as it was.
.PHONY: test-image
test-image:
	$(CARGO) rustc --quiet --package leasehold-operator --bin leasehold-operator -- -C target-feature=+crt-static -C strip=symbols
	$(CARGO) run --quiet --package leasehold-image -- --program $(BINARIES)/leasehold-operator --out $(TARGET)/image/test

.PHONY: chart
chart: ## Copy config/ and crds/ into the Helm chart
	charts/sync.sh

.PHONY: check-chart
check-chart:
	@charts/sync.sh --check

.PHONY: bench
bench: controlplane ## Measure, in an optimized build (40 minutes); ARGS="--only growth"
	$(CARGO) build --release --package leasehold-operator
	$(CARGO) run --release --package leasehold-bench -- $(ARGS)

.PHONY: profile
profile: controlplane ## See where the API server spends its time: tables and flame graphs (needs Go; ten minutes)
	$(CARGO) run --release --package leasehold-bench -- --only profile $(ARGS)

# What it is written from: FROM=<files of make bench>, those of several parts with commas between.
.PHONY: page
page: FROM ?= $(TARGET)/bench/summary.json
page: ## Write docs/scale.md from the figures of `make bench`
	$(CARGO) run --quiet --package leasehold-bench -- --page docs/scale.md --from $(FROM)

.PHONY: bench-peers
bench-peers: controlplane ## Measure beside client-go, etcd, Redis and others (over an hour); ARGS=--quick
	$(CARGO) build --release --locked $(PEERS_TARGET)
	cd bench-peers/go && $(PEERS_GO) build -trimpath -buildvcs=false -ldflags "-s -w" -o $(abspath $(TARGET))/release/peer-go .
	$(TARGET)/release/bench-peers $(ARGS)

.PHONY: interop
interop: controlplane ## Let client-go's leader election contend with ours (DURATION=10m)
	$(CARGO) build --package leasehold-prove --bins
	$(BINARIES)/leasehold-prove interop $(if $(DURATION),--duration $(DURATION)) $(ARGS)

.PHONY: cluster
cluster: controlplane-tool controlplane ## Start a control plane in the background and say how to use it
	@$(BINARIES)/controlplane up

.PHONY: cluster-down
cluster-down: controlplane-tool ## Stop it and remove all it stored
	@$(BINARIES)/controlplane down

.PHONY: controlplane
controlplane: ## Build etcd, kube-apiserver and the like once (minutes)
	@if [ -z "$$LEASEHOLD_TEST_KUBECONFIG$$KUBEBUILDER_ASSETS" ]; then tests/controlplane/build.sh >/dev/null; fi

.PHONY: tools
tools: ## Build helm and promtool once, for tests (minutes)
	@tests/tools/build.sh helm >/dev/null
	@tests/tools/build.sh promtool >/dev/null

.PHONY: binaries
binaries:
	$(CARGO) build --workspace --bins

.PHONY: controlplane-tool
controlplane-tool:
	@$(CARGO) build --quiet --package leasehold-testkit --bin controlplane
