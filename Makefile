# Gantry. `make quickstart` shows the main job; `make test` is what CI runs.
SHELL := /bin/bash
CARGO ?= cargo
# Packages that a bare Debian 12 with Rust lacks: a linker and C compiler (ring, zstd), the busybox of the quickstart,
# and the judges of the tests: a real registry, a real multi-layer image, nft and ip to look at the kernel.
PACKAGES := gcc libc6-dev make ca-certificates curl busybox-static docker-registry skopeo apache2-utils mmdebstrap nftables iproute2 procps

# The peer of the store, and what its client is built with.
BENCH_PACKAGES := etcd-server protobuf-compiler libprotobuf-dev

.PHONY: help setup packages quickstart quickstart-clean test test-full test-vm bench lint fmt doc clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-18s %s\n", $$1, $$2}'

# The judges of the API that are written in Python come into an environment of their own.
TEST_PACKAGES := python3-venv

setup: packages ## install what is missing (Debian packages and cargo tools; as root)
	@dev/packages $(TEST_PACKAGES)
	@dev/tools cargo-nextest cargo-deny

# Apart from the tools, which take minutes to build and which only tests need.
packages:
	@dev/packages $(PACKAGES)

quickstart: packages ## build, start the engine, apply manifests/quickstart, show the page
	@dev/quickstart

quickstart-clean: ## stop the quickstart's engine and take everything of it off this machine
	@dev/quickstart --clean

test: setup lint doc ## format check, clippy, docs, all suites (as root)
	@dev/root-only test
	$(CARGO) build --bin gantry
	$(CARGO) nextest run --workspace --no-fail-fast

test-full: setup ## the suites with the full counts of kills, seeds and races (as root)
	@dev/root-only test-full
	$(CARGO) build --bin gantry
	GANTRY_TEST_FULL=1 $(CARGO) nextest run --workspace --no-fail-fast --run-ignored all

test-vm: packages ## the quickstart in a stock Debian VM: systemd, pure cgroup v2, restart and reboot
	tests/vm/lane bookworm
	tests/vm/lane trixie

bench: packages ## the engine beside its peers in one run
	@dev/packages $(BENCH_PACKAGES)
	tests/bench/run

lint: ## format check, clippy, licences and sources of dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) deny --log-level error check licenses bans sources

fmt: ## format everything
	$(CARGO) fmt --all

doc: ## build the documentation; broken links are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

clean: ## remove what was built
	$(CARGO) clean
