#!/usr/bin/env bash
# The program for arm64, built here and run by an emulator: its size, its kernels, the goldens of every architecture, the text of the small model.
# SKIFF_ARM64_BUILD names a folder that tools/cross_arm64.sh has built before; otherwise it is built in the build folder, which takes minutes.
# timeout: 3600
set -euo pipefail
emulator=$(command -v qemu-aarch64 || command -v qemu-aarch64-static) || { echo "skipped: no qemu-aarch64 (apt-get install qemu-user)"; exit 77; }
[ -x "$SKIFF" ] || { echo "skipped: no program at $SKIFF"; exit 77; }
fail() { echo "FAILED: $*"; exit 1; }

cd "$SKIFF_SOURCE_DIR"
folder=${SKIFF_ARM64_BUILD:-$SKIFF_BUILD_DIR/arm64}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
JOBS=${SKIFF_ARM64_JOBS:-2} bash tools/cross_arm64.sh "$folder" base_tests kernels_tests plan_tests parity_models >"$log" 2>&1 && status=0 || status=$?
[ $status != 3 ] || { echo "skipped: $(grep -m1 'cross_arm64\|arm64_sysroot' "$log")"; exit 77; }
[ $status = 0 ] || { tail -20 "$log"; fail "the build"; }
tail -1 "$log"

program=$folder/skiff-arm64
size=$(stat -c %s "$program")
[ "$size" -le 20000000 ] || fail "$size bytes; at most 20 MB"
code=$(aarch64-linux-gnu-objdump -d "$program")
for instruction in smlal2 sdot smmla; do grep -q "$instruction" <<<"$code" || fail "no $instruction in the program"; done
unset code
newest() { "$emulator" -cpu max "$@"; }              # has dot products and the 8-bit matrix products
oldest() { "$emulator" -cpu cortex-a57 "$@"; }       # has neither

SKIFF_BUILD_DIR=$folder bash tests/lint/wide_units.sh || fail "shared code in a unit for one instruction set"
for tests in src/base/base_tests src/kernels/kernels_tests src/plan/plan_tests tests/parity_models; do
    newest "$folder/$tests" --gtest_brief=1 >"$log" 2>&1 || { tail -30 "$log"; fail "$tests"; }
    echo "$tests: $(grep -ho '[0-9]* tests from.*ran' "$log")"
done
oldest "$folder/src/kernels/kernels_tests" --gtest_brief=1 >"$log" 2>&1 || { tail -30 "$log"; fail "the kernels on a processor without dot products"; }

arguments=(run models/pocket -p "The ship" -n 12 --temp 0 --raw)
here=$("$SKIFF" "${arguments[@]}" --kernels reference 2>/dev/null)
[ -n "$here" ] || fail "no text here"
for isa in generic neon neon_dot ""; do
    there=$(newest "$program" "${arguments[@]}" ${isa:+--isa "$isa"} 2>/dev/null)
    [ "$here" = "$there" ] || fail "here: $here; arm64 ${isa:-best}: $there"
done
[ "$here" = "$(oldest "$program" "${arguments[@]}" 2>/dev/null)" ] || fail "another text on a processor without dot products"
echo "same text: $there"
# With 8-bit activations the sums are whole numbers, so three instruction sets give the same bits.
scheme=(bench models/pocket --scheme w4g32 -p 24 -n 2 -r 1 --json)
logits() { newest "$program" "${scheme[@]}" --isa "$1" 2>/dev/null | grep -o '"logits_hash": *"[0-9a-f]*"'; }
expected=$(logits neon)
[ -n "$expected" ] || fail "no logits at 4 bits"
for isa in neon_dot neon_i8mm; do [ "$(logits "$isa")" = "$expected" ] || fail "other logits at 4 bits with $isa"; done
echo "4 bits: the same logits with neon, neon_dot and neon_i8mm"

if oldest "$program" "${arguments[@]}" --isa neon_dot >/dev/null 2>"$log"; then fail "--isa neon_dot was accepted without it"; fi
grep -q 'this processor lacks it' "$log" || fail "$(cat "$log")"
if newest "$program" "${arguments[@]}" --isa avx2 >/dev/null 2>"$log"; then fail "--isa avx2 was accepted on arm64"; fi
grep -q 'another family' "$log" || fail "$(cat "$log")"

# The emulator's own memory is in the figure, so it is above that of a real machine; the speed says nothing.
newest "$program" bench models/pocket -p 16 -n 4 -r 1 >"$log" 2>&1 || { tail -5 "$log"; fail "bench"; }
grep -i 'peak' "$log"
