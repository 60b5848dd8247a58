# The front door. Each of these installs what it needs (Debian packages), configures, builds, and then does its work.
# After the first time, `cmake --build build` and `ctest --test-dir build` work as usual.

BUILD ?= build
JOBS ?= $(shell nproc)
GENERATOR = $(if $(wildcard $(BUILD)/Makefile),Unix Makefiles,Ninja)
CONFIGURE = cmake -S . -B $(BUILD) -G "$(GENERATOR)"

.DEFAULT_GOAL := help
.PHONY: help run build test bench dist arm64 fuzz lint sizes clean

help:
	@echo "make run     build skiff, then compress, prove and run the small model in models/pocket (a few minutes)"
	@echo "make test    build everything and run every test"
	@echo "make bench   measure this machine: limits, kernels, schemes, decoding and more (tools/bench.sh); some of it: SECTIONS=\"limits speed\""
	@echo "make dist    a source archive and an archive that runs on other Linux machines, with checksums, in out/"
	@echo "make arm64   the program for arm64 Linux, built here: one static file, $(BUILD)/arm64/skiff-arm64"
	@echo "make fuzz    fuzz the parsers; FUZZ_SECONDS=600 for ten minutes in all"
	@echo "make build   only the program: $(BUILD)/bin/skiff"
	@echo "make lint    include levels and forbidden words; make sizes: long files and functions"
	@echo "Options: JOBS=$(JOBS) (compile jobs), BUILD=$(BUILD) (folder)"

# A folder once configured with tests keeps them: only what changed is built again.
build:
	@bash tools/setup.sh run
	@test -f $(BUILD)/build.ninja -o -f $(BUILD)/Makefile || $(CONFIGURE) -DSKIFF_TESTS=OFF || bash tools/setup.sh explain run
	cmake --build $(BUILD) -j$(JOBS) --target skiff

run: build
	$(BUILD)/bin/skiff demo

bench: build
	@bash tools/setup.sh bench
	bash tools/bench.sh $(BUILD)/bin/skiff $(SECTIONS)

dist:
	@bash tools/setup.sh dist
	JOBS=$(JOBS) bash tools/dist.sh $(BUILD)

arm64:
	@bash tools/setup.sh arm64
	JOBS=$(JOBS) bash tools/cross_arm64.sh $(BUILD)/arm64

test:
	@bash tools/setup.sh test
	$(CONFIGURE) -DSKIFF_TESTS=ON || bash tools/setup.sh explain test
	cmake --build $(BUILD) -j$(JOBS)
	ctest --test-dir $(BUILD) --output-on-failure -j$(JOBS)

fuzz:
	@bash tools/setup.sh test
	$(CONFIGURE) -DSKIFF_TESTS=ON || bash tools/setup.sh explain test
	ctest --test-dir $(BUILD) --output-on-failure -j$(JOBS) -L fuzz --verbose

lint:
	bash tools/check_layers
	bash tools/check_words
	bash tools/check_names

sizes:
	bash tools/check_sizes

clean:
	cmake -E rm -rf $(BUILD) out
