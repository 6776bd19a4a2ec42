# SPDX-License-Identifier: GPL-2.0-or-later
# Each target calls one script, or cargo inside the tool root (scripts/in-root). All the rest is in scripts/.
#
#   KERNEL=NAME       default, previous, a series such as 7.2, debug, running (this machine's), own
#   KERNEL_SRC=DIR    build a kernel from this source tree and use it (KERNEL=own)
#   WERROR=1          warnings of the module's compilers are errors

ifdef KERNEL_SRC
KERNEL ?= own
export KERNEL_SRC
endif
KERNEL ?= default
export KERNEL

CARGO = scripts/in-root cargo
TESTS ?=
SECONDS ?= 60
DESTDIR ?=
PREFIX ?= /usr

.PHONY: help demo demo-images demo-cluster test test-full fuzz soak bench bench-quick module patches setup fmt fmt-check lint doc install clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@sed -n 's/^#   /  /p' $(MAKEFILE_LIST)

demo: ## build all, then show a deployment with snapshots in a virtual machine
	@scripts/demo

demo-images: ## from a master over web servers to a client whose link and power fail, beside rsync, zsync, casync, xdelta3
	@scripts/demo-images

demo-cluster: ## PostgreSQL on one volume in three virtual machines under Pacemaker, and its primary loses its power
	@scripts/demo-cluster

test: ## run the tests: cargo's, and those in virtual machines
	@scripts/test $(TESTS)

test-full: ## every test there is, on all kernels, for some hours
	@scripts/test-full

fuzz: ## fuzz what reads foreign bytes, each target for SECONDS=60
	@scripts/fuzz --seconds $(SECONDS)

soak: ## compare with the stock targets for hours by random scripts: HOURS=, MINUTES=, SEED=
	@scripts/soak

bench: ## measure everything beside dm-snapshot and others, deltas and servers beside other tools: Documentation/performance
	@scripts/bench --keep
	@scripts/bench-delta --keep
	@scripts/bench-fleet --keep

bench-quick: ## measure a part of it and fail if something has become slower than benches/recorded.json says
	@scripts/bench --quick

module: ## build dm-holey.ko: target/kmod/RELEASE/dm-holey.ko
	@scripts/module $(if $(WERROR),--werror)

patches: ## turn kmod/ into patches for the kernel's tree: target/patches
	@scripts/patches

setup: ## fetch and prepare the tools and the kernel; every other target does so when needed
	@scripts/setup

fmt: ## format the Rust sources
	@$(CARGO) fmt --all
	@$(CARGO) fmt --manifest-path fuzz/Cargo.toml
	@scripts/kmod-fmt

fmt-check: ## fail if a Rust source is not formatted
	@$(CARGO) fmt --all --check
	@$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	@scripts/kmod-fmt --check

lint: ## clippy over userspace and module, shellcheck over the scripts; warnings are errors
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@cd fuzz && ../$(CARGO) clippy --all-targets --locked -- -D warnings
	@scripts/module --werror --clippy
	@scripts/lint-shell

doc: ## build the API documentation; warnings are errors
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items --locked

install: ## install the programs, their pages, systemd units and agents for Pacemaker: DESTDIR=, PREFIX= (/usr)
	@$(CARGO) build --release --locked -p dmholey -p dmholey-agent
	@scripts/install "$(DESTDIR)" "$(PREFIX)"

clean: ## remove what was built here (the cache of tools and kernels stays: scripts/setup --prune)
	@rm -rf target
