# Two commands do everything, from a fresh clone on:
#   make demo    set up, build, train a vision Mamba on real images, report, classify
#   make test    set up, build, run the whole test suite
#
# JOBS=n     parallel compile jobs (default: all cores)
# PREFIX=dir where `make install` puts the library and the program
# PRESET=p   another CMake preset: dev, release, asan, ubsan, tsan

JOBS   ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PREFIX ?= $(HOME)/.local
PRESET ?= release
BUILD  := build/$(PRESET)

.PHONY: help setup configure build program test test-long demo demo-long install bench clean sanitizers

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

setup:
	@tools/setup.sh

configure: setup
	@mkdir -p build
	@cmake --preset $(PRESET) >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }

build: configure
	@cmake --build $(BUILD) -j $(JOBS)

# Only what the program needs, without the tests.
program: configure
	@cmake --build $(BUILD) -j $(JOBS) --target aspis_program

test: build
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) -LE long

# Sequences of a million tokens, and the grids of the upstream suites at full size: five minutes, some gigabytes of memory.
test-long: build
	@ctest --test-dir $(BUILD) --output-on-failure -L long

demo: program
	@tools/demo.sh $(BUILD)/aspis/cli/aspis

demo-long: program
	@tools/demo.sh $(BUILD)/aspis/cli/aspis --long

bench: program
	@$(BUILD)/aspis/cli/aspis bench

install: build
	@cmake --install $(BUILD) --prefix $(PREFIX)

# The parts without MLX under the three sanitizers.
sanitizers: setup
	@for p in asan ubsan tsan; do \
	  cmake --preset $$p >/dev/null && cmake --build build/$$p -j $(JOBS) && \
	  ctest --test-dir build/$$p --output-on-failure -j $(JOBS) || exit 1; done

clean:
	@rm -rf build
