#!/usr/bin/env bash
# What tools/new_arch and tools/new_kernel write compiles as it is.
set -euo pipefail
cd "$SKIFF_SOURCE_DIR"
export SKIFF_SKELETON_DIR
SKIFF_SKELETON_DIR=$(mktemp -d)
trap 'rm -rf "$SKIFF_SKELETON_DIR"' EXIT
tools/new_arch example_arch >/dev/null
for operator in $(sed -n 's/^void \([a-z_]*\)_ref(.*/\1/p' src/kernels/ref/ref.h); do tools/new_kernel "$operator" avx2 >/dev/null; done
[ "$(uname -m)" = x86_64 ] || { echo "skipped: the skeletons of kernels are for x86-64"; exit 77; }
cat "$SKIFF_SKELETON_DIR"/*.cpp | ${CXX:-c++} -x c++ -std=c++20 -mavx2 -mfma -mf16c -fsyntax-only -Wall -Wextra -Isrc -Iinclude -
if tools/new_arch 'Bad Name' 2>/dev/null || tools/new_kernel nonesuch avx2 2>/dev/null; then echo "FAILED: a bad name was accepted"; exit 1; fi
