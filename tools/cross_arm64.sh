#!/usr/bin/env bash
# cross_arm64.sh [FOLDER [TARGET...]]: builds skiff for arm64 Linux on this machine, in FOLDER (build/arm64), as one static program FOLDER/skiff-arm64 that
# needs no library of the machine it runs on. More targets (kernels_tests ...) are built too, and then run with CTest or an emulator.
# Exit 3 says that something is missing here: the compiler, or the libraries and no network to fetch them from.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/arm64}
[ $# = 0 ] || shift
sysroot=${SKIFF_ARM64_SYSROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/skiff/arm64}

command -v aarch64-linux-gnu-g++ >/dev/null || { echo "cross_arm64: no aarch64-linux-gnu-g++ (apt-get install g++-aarch64-linux-gnu)" >&2; exit 3; }
bash tools/arm64_sysroot.sh "$sysroot" || exit 3
command -v ninja >/dev/null && export CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}
[ -f "$folder/CMakeCache.txt" ] || cmake -S . -B "$folder" -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/arm64.cmake" -DSKIFF_SYSROOT="$sysroot" -DSKIFF_TRAIN=OFF
cmake --build "$folder" -j"${JOBS:-$(nproc)}" --target skiff "$@"
aarch64-linux-gnu-strip -o "$folder/skiff-arm64" "$folder/bin/skiff"
echo "$folder/skiff-arm64: $(stat -c %s "$folder/skiff-arm64") bytes, for any arm64 Linux"
