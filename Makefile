# The commands of the project. `make demo` and `make test` are all that a newcomer needs: both set
# up what a fresh Debian machine lacks.

# A test run that fails in a pipe has failed.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec

# Outside the clone, so that several clones share what they have built.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/proa/target

MUSL := x86_64-unknown-linux-musl
WASM := wasm32-wasip2
# What building and running needs, and what tests and releases need besides.
PACKAGES := busybox-static gcc libc6-dev libseccomp-dev make pkg-config
TEST_PACKAGES := docker-registry iproute2 musl-tools python3-venv util-linux
KUBECTL_1_20 := $(CARGO_TARGET_DIR)/tools/kubectl-1.20
CLIENTS := $(CARGO_TARGET_DIR)/tools/clients
TOOLS := $(CARGO_TARGET_DIR)/tools/installed
TEST_TOOLS := $(CARGO_TARGET_DIR)/tools/installed-for-tests
install = dpkg -s $(1) >/dev/null 2>&1 || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(1); }
export PROA_TEST_KUBECTL_1_20 := $(KUBECTL_1_20)/usr/bin/kubectl

.PHONY: demo test check check-arm bench sim examples release setup setup-tests

# Debian packages and Rust targets. kubectl 1.20 is unpacked, not installed, so that it stands
# beside the machine's own.
setup: $(TOOLS)
$(TOOLS): Makefile
	$(call install,$(PACKAGES))
	rustup target add $(WASM)
	mkdir -p $(KUBECTL_1_20)
	test -x $(PROA_TEST_KUBECTL_1_20) || { apt-get update -q && cd $(KUBECTL_1_20) && apt-get download -q kubernetes-client && dpkg -x kubernetes-client_*.deb . && rm kubernetes-client_*.deb; }
	touch $@

# Client libraries whose streams are tried have a directory of their own.
setup-tests: setup $(TEST_TOOLS)
$(TEST_TOOLS): Makefile
	$(call install,$(TEST_PACKAGES))
	rustup target add $(MUSL) aarch64-unknown-linux-musl
	mkdir -p $(@D)
	test -x $(CLIENTS)/bin/python || { python3 -m venv $(CLIENTS) && $(CLIENTS)/bin/pip install -q 'kubernetes>=33' 'kr8s>=0.20'; }
	touch $@

# The example components, from source.
examples: setup
	cd examples && CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/examples cargo build --locked --release --target $(WASM)

# Both binaries as they are shipped, side by side in TARGET/release.
release: setup-tests
	cargo build --locked --release --bin proa
	cargo build --locked --release -p proa-wasm --features static-binary --target $(MUSL)
	cp $(CARGO_TARGET_DIR)/$(MUSL)/release/proa-wasm $(CARGO_TARGET_DIR)/release/proa-wasm

# Built to be seen soon, not to be small or fast: `make release` makes what is shipped.
demo: examples
	cargo build --locked --profile quick --bin proa --example demo
	$(CARGO_TARGET_DIR)/quick/examples/demo

test: setup-tests examples
	cargo build --locked --release -p proa-wasm --features static-binary --target $(MUSL)
	mkdir -p $(CARGO_TARGET_DIR)/debug
	cp $(CARGO_TARGET_DIR)/$(MUSL)/release/proa-wasm $(CARGO_TARGET_DIR)/debug/proa-wasm
	cargo test --locked --workspace --lib --bins --tests 2>&1 | tee $(CARGO_TARGET_DIR)/test.log
	@awk '/^test result:/ { p += $$4; f += $$6; s += $$8 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' $(CARGO_TARGET_DIR)/test.log

check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --lib --bins --test structure

# Both binaries for 64-bit ARM boards, as far as the compiler can tell without one.
check-arm: setup-tests
	dpkg -s gcc-aarch64-linux-gnu >/dev/null 2>&1 || apt-get install -qy --no-install-recommends gcc-aarch64-linux-gnu
	CC_aarch64_unknown_linux_musl=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_musl=aarch64-linux-gnu-ar \
		cargo check --locked --target aarch64-unknown-linux-musl --bin proa --bin proa-wasm --workspace

bench: release examples
	cargo build --locked --release --example bench
	$(CARGO_TARGET_DIR)/release/examples/bench

# Runs many seeds of the simulation (RUNS), or one that has failed again (SEED).
sim:
	PROA_SIM_SEED=$(SEED) PROA_SIM_RUNS=$(or $(RUNS),1000) PROA_SIM_STEPS=$(STEPS) cargo test --locked -p proa-control --test simulation -- --nocapture
