#!/usr/bin/env bash
# dist.sh BUILD: out/skiff-VERSION.tar.gz (the source) and out/skiff-VERSION-linux-ARCH.tar.xz (programs that need glibc alone, the CUDA plug-in where nvcc is, the
# tests and benchmarks that run on another machine, the pocket model, the texts), with SHA256SUMS. Built in BUILD/portable: everything but glibc is in the programs.
# skiff-train stays out: it runs only with the LibTorch that it was linked with, and its many libraries. README.md says how to build it.
# xz with a dictionary that spans the archive: the programs share most of their code, the kernels are in the plug-in and in their tests (88 MiB as gzip, 44 so). Unpacking takes 192 MiB of memory.
# The archives have fixed times, owners and order: the same commit and compiler give the same bytes.
# SKIFF_CUDA_ARCHITECTURES="80;86;89;90a;120" (default) are the GPUs that the plug-in has code for; JOBS compile jobs.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build}/portable
most_mib=60
version=$(sed -n 's/^project(skiff VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
out=$PWD/out
name=skiff-$version-linux-$(uname -m)
if ! time=$(git log -1 --format=%ct 2>/dev/null); then
    echo "dist: needs a git checkout" >&2
    exit 1
fi
tests=OFF
[ -e /usr/include/gtest/gtest.h ] && tests=ON
command -v ninja >/dev/null && export CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}
cmake -S . -B "$folder" -DSKIFF_PORTABLE=ON -DSKIFF_TRAIN=OFF -DSKIFF_TESTS=$tests "-DSKIFF_CUDA_ARCHITECTURES=${SKIFF_CUDA_ARCHITECTURES:-80;86;89;90a;120}"
targets=$(cmake --build "$folder" --target help | grep -oE '\b(skiff|skiff_cuda|cuda_sweep|cuda_device_tests|backend_tests)\b' | sort -u)
# shellcheck disable=SC2086
cmake --build "$folder" -j"${JOBS:-$(nproc)}" --target $targets

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$out" "$stage/$name/bin" "$stage/$name/tests"
put() {  # FILE FOLDER: if it was built
    [ -f "$1" ] || return 0
    install -m755 "$1" "$stage/$name/$2/"
    strip --strip-unneeded "$stage/$name/$2/${1##*/}"
}
put "$folder/bin/skiff" bin
put "$folder/bin/libskiff_cuda.so" bin
put "$folder/bin/cuda_sweep" bin
put "$folder/src/kernels/cuda/cuda_device_tests" tests
put "$folder/src/backend/backend_tests" tests
put "$folder/testing/libskiff_fake_cuda.so" tests
for file in README.md README.zh-CN.md LICENSE CHANGELOG.md SECURITY.md docs models/pocket bench/shapes bench/gpu_suite tests/data/models tests/data/NOTICE; do
    [ -e "$file" ] && cp -r --parents "$file" "$stage/$name/"
done
find "$stage/$name" -type f \( -path '*/bin/*' -o -path '*/tests/*' \) -perm -u+x -exec sh -c 'ldd "$1" 2>/dev/null' _ {} \; | awk '{ print $1 }' | grep -vE '^(linux-vdso|/lib)' | LC_ALL=C sort -u >"$stage/$name/LIBRARIES"  # what the system must have
if foreign=$(grep -vE '^(libc|libm|libdl|libpthread|librt)\.so\.' "$stage/$name/LIBRARIES"); then
    echo "dist: these libraries are not glibc's, so that another machine may lack them: $foreign" >&2
    exit 1
fi
if [ -f "$stage/$name/bin/libskiff_cuda.so" ]; then
    major=$("$(sed -n 's/^SKIFF_NVCC:[A-Z]*=//p' "$folder/CMakeCache.txt")" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    case $major in 12) driver=525 ;; 13) driver=580 ;; *) driver= ;; esac
    echo "for --device cuda: an NVIDIA driver of CUDA $major${driver:+ (version $driver)} or later" >>"$stage/$name/LIBRARIES"
fi
git archive --format=tar --prefix="skiff-$version/" HEAD | gzip -n9 >"$out/skiff-$version.tar.gz"
tar -C "$stage" --sort=name --mtime="@$time" --owner=0 --group=0 --numeric-owner -cf - "$name" | xz -T1 --lzma2=preset=6,dict=192MiB >"$out/$name.tar.xz"
size=$(stat -c %s "$out/$name.tar.xz")
echo "dist: $out/$name.tar.xz has $((size >> 20)) MiB"
if [ $((size >> 20)) -ge $most_mib ]; then
    echo "dist: more than $most_mib MiB" >&2
    exit 1
fi
(cd "$out" && sha256sum "skiff-$version.tar.gz" "$name.tar.xz" | tee SHA256SUMS)
