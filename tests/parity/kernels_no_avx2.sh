#!/bin/bash
# The kernel tests on an emulated processor without AVX2: the generic rows run, and no wide instruction is reached.
# timeout: 120
tests="$SKIFF_BUILD_DIR/src/kernels/kernels_tests"
command -v qemu-x86_64 >/dev/null || { echo "skipped: qemu-x86_64 is not installed (Debian package qemu-user)"; exit 77; }
[ "$(uname -m)" = x86_64 ] || { echo "skipped: not an x86-64 machine"; exit 77; }
[ -x "$tests" ] || { echo "skipped: $tests is not built"; exit 77; }
output=$(qemu-x86_64 -cpu Nehalem "$tests" --gtest_filter='Activation.*:Elements.*:Softcap.*:Norm.*:Rope.*:Quantize.*:StateWrite.*:Layout.choice*:Linear.bias*:Linear.bits_do_not_depend_on_the_split_of_rows' 2>/dev/null)
status=$?
echo "$output" | tail -5
[ $status -eq 0 ]
