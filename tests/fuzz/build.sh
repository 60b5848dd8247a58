#!/usr/bin/env bash
# build.sh SOURCE_DIR FUZZ_DIR: builds every fuzz target with clang, libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.
set -uo pipefail
source_dir=$1
fuzz_dir=$2
compiler=${SKIFF_FUZZ_CXX:-clang++}
mkdir -p "$fuzz_dir"
probe="$fuzz_dir/probe.cpp"
printf '#include <cstddef>\n#include <cstdint>\nextern "C" int LLVMFuzzerTestOneInput(const std::uint8_t*, std::size_t) { return 0; }\n' >"$probe"
rm -f "$fuzz_dir/absent"
if ! "$compiler" -fsanitize=fuzzer,address,undefined "$probe" -o "$fuzz_dir/probe" 2>"$fuzz_dir/probe.log"; then
    echo "no clang++ with libFuzzer and sanitizers here (apt-get install clang libclang-rt-dev): the fuzz tests are skipped" | tee "$fuzz_dir/absent"
    exit 0
fi
set -e
# Each file alone, so that one that lacks an #include is found here.
cmake -S "$source_dir" -B "$fuzz_dir" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_C_COMPILER="${compiler/clang++/clang}" -DCMAKE_BUILD_TYPE=None \
    -DSKIFF_FUZZ=ON -DSKIFF_TESTS=OFF -DSKIFF_UNITY=OFF
cmake --build "$fuzz_dir" -j"$(nproc)" --target fuzz_targets
