#!/usr/bin/env bash
# The archive of `make dist`, unpacked to another place: it needs glibc alone and runs with an empty environment.
# timeout: 300
set -euo pipefail
archive=$(ls "$SKIFF_SOURCE_DIR"/out/skiff-*-linux-"$(uname -m)".tar.xz 2>/dev/null | head -1 || true)
[ -n "$archive" ] || { echo "skipped: no archive in out/; make dist makes one"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
[ "$(stat -c %s "$archive")" -le $((60 << 20)) ] || fail "the archive has more than 60 MiB"
tar -C "$work" -xJf "$archive"
cd "$work"/skiff-*
while read -r file; do
    foreign=$(ldd "$file" | awk '{ print $1 }' | grep -vE '^(linux-vdso\.so|libc\.so|libm\.so|libdl\.so|libpthread\.so|librt\.so|/lib(64)?/ld-linux)' || true)
    [ -z "$foreign" ] || fail "$file needs $foreign"
done < <(find bin tests -type f -perm -u+x)
env -i ./bin/skiff doctor --no-measure >doctor.txt || fail "doctor with an empty environment"
env -i SKIFF_CACHE_DIR="$work/cache" ./bin/skiff run models/pocket --raw -p "Once upon a time" -n 8 --temp 0 -q >text.txt || fail "run with an empty environment"
[ -s text.txt ] || fail "run wrote nothing"
if [ -f bin/libskiff_cuda.so ]; then
    # The plug-in is found beside the program; without a driver it is the driver that is missing, not the plug-in.
    env -i ./bin/skiff bench models/pocket --device cuda -p 8 -n 2 -r 1 >bench.txt 2>&1 && status=0 || status=$?
    if [ $status != 0 ] && ! grep -qiE 'cuda [0-9.]+:' bench.txt; then cat bench.txt; fail "the plug-in in the archive cannot be opened"; fi
fi
if [ -f tests/libskiff_fake_cuda.so ]; then
    SKIFF_CUDA_LIBRARY=$PWD/tests/libskiff_fake_cuda.so ./bin/cuda_sweep --small >sweep.jsonl || fail "cuda_sweep on the fake device"
    grep -q '"part":"gemv"\|"part": "gemv"' sweep.jsonl || fail "cuda_sweep says nothing of gemv"
fi
echo "$(basename "$archive"): $(($(stat -c %s "$archive") >> 20)) MiB, glibc alone"
