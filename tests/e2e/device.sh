#!/usr/bin/env bash
# The program with the plug-in whose kernels run on the host: --device through run, bench, eval and doctor, and what is said where it cannot be.
# timeout: 600
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
fake=$SKIFF_BUILD_DIR/testing/libskiff_fake_cuda.so
[ -f "$fake" ] || { echo "skipped: no $fake"; exit 77; }
model=$SKIFF_TEST_DATA_DIR/models/llama_tied_bf16

# Without a plug-in.
unset SKIFF_CUDA_LIBRARY
export SKIFF_CUDA_LIBRARY=$work/nothing.so
expect 1 "has no CUDA plug-in" "$SKIFF" bench "$model" --device cuda -p 8 -n 4 -r 1
"$SKIFF" bench "$model" --device auto -p 8 -n 4 -r 1 >"$work/auto" 2>&1 || fail "--device auto without a plug-in"
grep -q "runs on the processor" "$work/auto" || fail "--device auto does not say that it runs on the processor"
grep -q "cpu" "$work/auto" || fail "--device auto does not name the processor"
"$SKIFF" doctor --no-measure >"$work/doctor" || fail "doctor without a plug-in"
grep -q "CUDA plug-in" "$work/doctor" || fail "doctor does not name the plug-in"

# With one.
export SKIFF_CUDA_LIBRARY=$fake
"$SKIFF" doctor --no-measure --json >"$work/doctor.json"
grep -q '"usable": *true' "$work/doctor.json" || { cat "$work/doctor.json"; fail "doctor does not find the plug-in usable"; }
SKIFF_FAKE_FAILS_AT=1 "$SKIFF" doctor --no-measure --json >"$work/doctor.json"  # a kernel that cannot be launched
grep -q '"usable": *false' "$work/doctor.json" && grep -q 'launching a kernel' "$work/doctor.json" || { cat "$work/doctor.json"; fail "doctor finds a device usable that runs no kernel"; }
"$SKIFF" bench "$model" --device cuda -p 8,40 -n 6 -r 1 --json >"$work/bench.json"
grep -q '"device": *"fake fake device"' "$work/bench.json" || { cat "$work/bench.json"; fail "bench does not name the device"; }
hash_of() { sed -n 's/.*"logits_hash": *"\([0-9a-f]*\)".*/\1/p' "$1"; }
pocket=$SKIFF_SOURCE_DIR/models/pocket
for options in "--graphs off" "--sequences 1,2" "--state int8" "--state fp8" "--gemm own" "--prune 2:4 --scheme w4g32r" "--overlap on" "--profile" "--feed host" "--device-layers 1 --offload stream"; do
    measured=$model
    case $options in --state*) measured=random:$pocket/config.json ;; esac  # the small model's heads are too small for these
    # shellcheck disable=SC2086
    "$SKIFF" bench "$measured" --device cuda -p 8 -n 6 -r 1 $options >"$work/out" 2>&1 || { cat "$work/out"; fail "bench $options"; }
done
"$SKIFF" bench "$model" --device cuda -p 0 -n 6 -r 1 --json >"$work/a.json"
"$SKIFF" bench "$model" --device cuda -p 0 -n 6 -r 1 --graphs off --json >"$work/b.json"
[ -n "$(hash_of "$work/a.json")" ] && [ "$(hash_of "$work/a.json")" = "$(hash_of "$work/b.json")" ] || fail "graphs change the logits"
# Fed through the host or by the device itself: the same tokens.
for sequences in 1 5; do
    for feed in device host; do "$SKIFF" bench "$model" --device cuda -p 0 -n 9 -r 1 --sequences $sequences --feed $feed --json >"$work/$feed.json"; done
    [ "$(hash_of "$work/device.json")" = "$(hash_of "$work/host.json")" ] || fail "--feed host feeds $sequences sequences other tokens"
done
# Libraries for long prompts: each does what it is asked, and no remark says that the own kernels do it.
mkdir "$work/libraries"
cp "$SKIFF_BUILD_DIR/testing/libskiff_fake_cudnn.so" "$work/libraries/libcudnn.so.9"
cp "$SKIFF_BUILD_DIR/testing/libskiff_fake_cudnn.so" "$work/libraries/libcublasLt.so.13"  # only looked for: products are the fake device's
for options in "--gemm cublaslt" "--gemm cutlass" "--gemm fp8 --scheme e4m3" "--attention cudnn --state bf16"; do
    # shellcheck disable=SC2086
    SKIFF_CUDA_LIBRARIES=$work/libraries "$SKIFF" bench "random:$pocket/config.json" --device cuda -p 66 -n 0 -r 1 $options >"$work/out" 2>&1 || { cat "$work/out"; fail "bench $options"; }
    ! grep -q "the own kernels" "$work/out" || { cat "$work/out"; fail "bench $options leaves it to the own kernels"; }
done
SKIFF_CUDA_LIBRARIES=$work/libraries expect 1 "no matrix of this model is of 8-bit floats" "$SKIFF" bench "random:$pocket/config.json" --device cuda --gemm fp8 -p 66 -n 0 -r 1
expect 2 "leave one of the two out" "$SKIFF" bench "$model" --device cuda --device-layers 1 --offload stream --overlap on -p 8 -n 4
expect 2 "needs --device cuda" "$SKIFF" bench "$model" --gemm cutlass -p 8 -n 4
expect 2 "are a GPU's" "$SKIFF" bench "$model" --graphs off -p 8 -n 4
expect 2 "are the processor's" "$SKIFF" bench "$model" --device cuda --merge off -p 8 -n 4
expect 1 "no CUDA row for this --state" "$SKIFF" bench "$model" --device cuda --state int8 -p 8 -n 4 -r 1
expect 2 "needs --device cuda" "$SKIFF" bench "$model" --state fp8 -p 8 -n 4
SKIFF_FAKE_DEVICE_MIB=1 expect 4 "--device cpu" "$SKIFF" bench "$SKIFF_SOURCE_DIR/models/pocket" --device cuda -p 8 -n 4 -r 1

# The same text, token for token, and the same perplexity to what kernels on int8 activations leave.
if [ -f "$pocket/config.json" ]; then
    one=$("$SKIFF" run "$pocket" --raw -p "Once upon a time" -n 12 --temp 0 -q --kernels reference)
    two=$("$SKIFF" run "$pocket" --raw -p "Once upon a time" -n 12 --temp 0 -q --device cuda 2>"$work/remarks")
    [ "$one" = "$two" ] || fail "the device writes \"$two\", the processor \"$one\""
    "$SKIFF" eval "$pocket" --device cuda --max-windows 1 --window 48 --json >"$work/eval.json" 2>"$work/err" || { cat "$work/err"; fail "eval --device cuda"; }
    grep -q 'fake fake device' "$work/eval.json" || fail "eval does not name the device"
fi
# Some layers on the device, the others on the processor.
expect 2 "need --device cuda" "$SKIFF" bench "$model" --fit -p 8 -n 4
expect 2 "give one of them" "$SKIFF" bench "$model" --device cuda --fit --device-layers 1 -p 8 -n 4
expect 2 "layers" "$SKIFF" bench "$model" --device cuda --device-layers 99 -p 8 -n 4
"$SKIFF" bench "$model" --device cuda --device-layers 1 -p 8,40 -n 6 -r 1 --sequences 1,2 --profile --json >"$work/bench.json" 2>"$work/remarks" || { cat "$work/remarks"; fail "bench --device-layers"; }
grep -q '"device": *"fake fake device (1 of 2 layers), cpu' "$work/bench.json" || { cat "$work/bench.json"; fail "bench does not say how many layers are the device's"; }
grep -q "1 of 2 layers run on the device" "$work/remarks" || fail "no remark says how many layers are the device's"
if [ -f "$pocket/config.json" ]; then
    one=$("$SKIFF" run "$pocket" --raw -p "Once upon a time" -n 12 --temp 0 -q)
    two=$("$SKIFF" run "$pocket" --raw -p "Once upon a time" -n 12 --temp 0 -q --device cuda --device-layers 3 2>"$work/remarks")
    [ "$one" = "$two" ] || fail "device and processor together write \"$two\", the processor \"$one\""
    SKIFF_FAKE_DEVICE_MIB=24 "$SKIFF" bench "$pocket" --device cuda --fit --offload processor --gemm own -p 8 -n 4 -r 1 --json >"$work/bench.json" 2>"$work/remarks" || { cat "$work/remarks"; fail "bench --fit"; }
    grep -qE '"device": *"fake fake device \([1-9] of [0-9]+ layers\), cpu' "$work/bench.json" || { cat "$work/bench.json"; fail "--fit does not say how many layers are the device's"; }
    SKIFF_FAKE_DEVICE_MIB=36 "$SKIFF" bench "$pocket" --device cuda --fit --gemm own -p 8 -n 4 -r 1 >"$work/out" 2>"$work/remarks" || { cat "$work/remarks"; fail "bench --fit by what was measured"; }
    grep -q "(measured: a layer takes" "$work/remarks" || { cat "$work/remarks"; fail "--fit does not say what it measured"; }
    for mib in 18 20 22; do  # hardly anything fits: an error or a few layers, and nothing is written to memory that was given back
        status=0
        SKIFF_FAKE_DEVICE_MIB=$mib "$SKIFF" bench "$pocket" --device cuda --fit --offload processor -p 4 -n 2 -r 1 -c 64 >"$work/out" 2>&1 || status=$?
        [ $status = 0 ] || [ $status = 4 ] || { cat "$work/out"; fail "--fit with $mib MiB ends with $status"; }
    done
    expect 2 "keeps all layers" "$SKIFF" bench "$pocket" --device cuda --device-layers 6 --offload stream -p 8 -n 4
    SKIFF_FAKE_DEVICE_MIB=1 expect 4 "not one layer" "$SKIFF" bench "$pocket" --device cuda --fit -p 8 -n 4 -r 1
    SKIFF_FAKE_DEVICE_MIB=1 expect 0 "runs on the processor" "$SKIFF" bench "$pocket" --device auto --fit -p 8 -n 4 -r 1
fi
# Layers that are copied when they are used; tokens that are drawn; what a calibration adds up there.
expect 2 "needs --fit or --device-layers" "$SKIFF" bench "$model" --device cuda --offload stream -p 8 -n 4
expect 2 "looks at no data" "$SKIFF" quantize "$model" -o "$work/nearest" --scheme w8g32 --device cuda
if [ -f "$pocket/config.json" ]; then
    one=$("$SKIFF" run "$pocket" --raw -p "Once upon a time" -n 12 --seed 5 -q --kernels reference)
    two=$("$SKIFF" run "$pocket" --raw -p "Once upon a time" -n 12 --seed 5 -q --device cuda 2>"$work/remarks")
    [ "$one" = "$two" ] || fail "the device draws \"$two\", the processor \"$one\""
    one=$("$SKIFF" run "$pocket" --raw -p "Once upon a time" -n 12 --temp 0 -q --kernels reference)
    two=$("$SKIFF" run "$pocket" --raw -p "Once upon a time" -n 12 --temp 0 -q --device cuda --device-layers 2 --offload stream 2>"$work/remarks")
    [ "$one" = "$two" ] || fail "with copied layers the device writes \"$two\", the processor \"$one\""
    grep -q "are copied to the device when they are used" "$work/remarks" || fail "no remark says that layers are copied"
fi
if [ -f "$pocket/config.json" ]; then
    status=0
    "$SKIFF" quantize "$pocket" -o "$work/gptq" --scheme w4g32 --method gptq --calibration-samples 2 --calibration-tokens 64 --device cuda >"$work/out" 2>&1 || status=$?
    if [ $status = 0 ]; then
        grep -q '"run_by": *"fake fake device"' "$work/gptq"/*.json || fail "the manifest does not say what ran the calibration"
    else
        grep -q OpenBLAS "$work/out" || { cat "$work/out"; fail "quantize --device cuda"; }
    fi
fi
"$SKIFF" classify "$SKIFF_SOURCE_DIR/examples/digits/digits.json" --data digits:20:9 --device cuda --json >"$work/there.json" 2>"$work/err" || { cat "$work/err"; fail "classify --device cuda"; }
grep -q 'fake fake device' "$work/there.json" || fail "classify does not name the device"
[ ! -x "$SKIFF_BUILD_DIR/bin/cuda_sweep" ] || "$SKIFF_BUILD_DIR/bin/cuda_sweep" --small >"$work/sweep" || fail "cuda_sweep on the fake device"
if [ -f "$work/sweep" ]; then
    # What is measured from memory must not fit the cache (1 MiB here).
    awk -F'"(bytes|copies)":' '/"part": *"gemv"/ { ++n; if (int($2) * int($3) < 2 * 1048576) { print "too few copies: " $0; bad = 1 } } END { exit bad || n < 4 }' "$work/sweep" || fail "cuda_sweep measures what the cache holds"
    # Each pattern by each library; an activation is CUTLASS's own launch, and one more behind cuBLASLt's.
    for row in own:1 cublaslt:2 cutlass:1; do
        [ "$row" != cublaslt:2 ] || grep -q '"row": *"cublaslt"' "$work/sweep" || continue  # it may not be here
        grep '"pattern": *"product + bias + activation"' "$work/sweep" | grep "\"row\": *\"${row%:*}\"" | grep -q "\"launches\": *${row#*:}\b" || fail "cuda_sweep patterns: ${row%:*}"
    done
    "$SKIFF_BUILD_DIR/bin/cuda_sweep" --small gemv w4g32 >"$work/sweep" && grep -q '"scheme": *"w4g32"' "$work/sweep" && ! grep -q '"scheme": *"bf16"' "$work/sweep" || fail "cuda_sweep takes other schemes than the one that was named"
    expect 2 "cuda_sweep" "$SKIFF_BUILD_DIR/bin/cuda_sweep" --small gemv w5
    "$SKIFF_BUILD_DIR/bin/cuda_sweep" --small --tuning "$work/tuning.json" tune w4g32 >"$work/sweep" && grep -q '"part": *"tune"' "$work/sweep" && grep -q '"gemv"' "$work/tuning.json" || fail "cuda_sweep tune writes no table"
    SKIFF_CUDA_TUNING=$work/tuning.json "$SKIFF" bench "$model" --device cuda -p 8 -n 4 -r 1 >"$work/out" 2>&1 || { cat "$work/out"; fail "the table that cuda_sweep wrote is not read"; }
    echo '{"gemv": 1}' >"$work/tuning.json"
    SKIFF_CUDA_TUNING=$work/tuning.json expect 5 "tuning" "$SKIFF" bench "$model" --device cuda -p 8 -n 4 -r 1
fi
echo "run, bench, eval and doctor with a device"
