#!/usr/bin/env bash
# bench/gpu_suite with programs that only say what they are told to: what it keeps, what it does again, when it fails. No GPU is needed.
# timeout: 120
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; [ ! -f "$work/log" ] || cat "$work/log"; exit 1; }
mkdir -p "$work/build/bin" "$work/tools"
cat >"$work/build/bin/skiff" <<'END'
#!/usr/bin/env bash
case $1 in
    doctor) echo "{\"devices\": [{\"name\": \"NVIDIA Test\", \"usable\": ${FAKE_USABLE:-true}}]}" ;;
    run) case "$*" in *cuda*) echo "${FAKE_TEXT:-Once there was a girl who had a ball.}" ;; *) echo "Once there was a girl who had a dog." ;; esac ;;
    eval) case "$*" in *cuda*) value=${FAKE_PERPLEXITY-17.42} ;; *) value=17.4 ;; esac; printf '{\n  "model": {"path": "x"},\n  "perplexity": {\n    "value": %s,\n    "tokens": 8\n  }\n}\n' "$value" ;;
    bench)
        case "$*:${FAKE_CUTLASS:-}" in *"--gemm cutlass"*:absent) exit 1 ;; esac
        shape=${2##*/}
        printf '{\n  "results": [{"test": "pp2048", "tokens_per_s": {"median": 9000.5, "min": 1}, "share_of_bandwidth": null, "share_of_gemm_rate": 0.61},\n    {"test": "tg128", "tokens_per_s": {"median": 220.25, "min": 1}, "share_of_bandwidth": 0.7%s}' "$(case $shape in B.json) echo 0 ;; *) echo 4 ;; esac)"
        case $* in *--sequences*) for n in "" x2 x4 x8 x16; do printf ', {"test": "tg512%s @ d512", "tokens_per_s": {"median": 4%s.5}}' "$n" "${n#x}"; done ;; esac
        printf ']\n}\n'
        ;;
esac
END
cat >"$work/build/bin/cuda_sweep" <<'END'
#!/usr/bin/env bash
echo "$*" >>"${0%/bin/*}/sweeps"
case $* in
    "attention bf16") for pair in "1024 0.5" "8192 0.82" "32768 0.81"; do echo "{\"part\": \"attention\", \"state\": \"bf16\", \"head_dim\": 128, \"window\": 0, \"length\": ${pair% *}, \"tokens\": 1, \"share_of_read\": ${pair#* }}"; done ;;
    gemv*) echo "{\"part\": \"gemv\", \"scheme\": \"$2\", \"tokens\": 1, \"bytes\": 70000000, \"share_of_read\": 0.8$((${#2} % 10))}" ;;
    *) echo "{\"part\": \"$1\", \"us\": 1.5}" ;;
esac
[ "$*" != "${FAKE_SLOW:-}" ] || exec sleep 60
[ "$*" != "${FAKE_BAD:-}" ] || exit 3
END
printf '#!/usr/bin/env bash\necho ok\n' | tee "$work/build/cuda_device_tests" >"$work/build/backend_tests"
# shellcheck disable=SC2016
printf '#!/usr/bin/env bash\necho "$*" >>"${0%%/*}/calls"\n' >"$work/tools/compute-sanitizer"
chmod +x "$work"/build/bin/* "$work"/build/*_tests "$work/tools/compute-sanitizer"
suite() {  # STATUS STAGE...
    local wanted=$1 status=0; shift
    PATH=$work/tools:$PATH COMPUTE_SANITIZER=${FAKE_SANITIZER-$work/tools/compute-sanitizer} SKIFF_CUDA_LIBRARIES=$work BUILD=$work/build RESULTS=$work/results bash "$SKIFF_SOURCE_DIR/bench/gpu_suite" "$@" >"$work/log" 2>&1 || status=$?
    [ $status = "$wanted" ] || fail "exit $status instead of $wanted: gpu_suite $*"
}
kept() { grep -c -- "$2" "$work/results/gpu-nvidia-test-$1.jsonl" || true; }

FAKE_USABLE=false suite 77 test
suite 0
for stage in test sanitize sweep e2e; do [ "$(kept $stage '"status": 0')" -gt 3 ] || fail "stage $stage kept nothing"; done
[ "$(kept test '"processor": 17.4, "device": 17.42')" = 6 ] || fail "the perplexities of the model and of calibration are not kept"
[ "$(kept sweep '"of": "gemv-w4g128"')" = 1 ] || fail "a sweep's lines are not kept"
[ "$(wc -l <"$work/tools/calls")" = 7 ] || fail "the sanitizer was not called for every tool"

# Again: everything is there.
before=$(wc -l <"$work/build/sweeps")
suite 0
[ "$(wc -l <"$work/build/sweeps")" = "$before" ] || fail "what was done is done again"

# The figures are read from the results: below, reached, not run.
rows() { grep -cF -- "$1" "$work/results/gpu-nvidia-test-figures.md" || true; }
[ "$(rows "| L8 bf16, one sequence, of the read bandwidth | 74.0 % (220.2 tok/s) | 75 % | below |")" = 1 ] || { cat "$work/results/gpu-nvidia-test-figures.md"; fail "the figure of L8 bf16"; }
[ "$(rows "| B bf16, one sequence | 70.0 % (220.2 tok/s) | 60 % | reached |")" = 1 ] || { cat "$work/results/gpu-nvidia-test-figures.md"; fail "the figure of B"; }
[ "$(rows "bf16, the slowest | 81.0 % | 80 % | reached |")" = 1 ] || { cat "$work/results/gpu-nvidia-test-figures.md"; fail "the figure of attention"; }
[ "$(rows "the slowest scheme and shape | 80.0 % | 88 % | below |")" = 1 ] || { cat "$work/results/gpu-nvidia-test-figures.md"; fail "the figure of GEMV"; }
[ "$(rows "of the measured GEMM rate | 61.0 % (9000.5 tok/s) | 60 % | reached |")" = 1 ] || { cat "$work/results/gpu-nvidia-test-figures.md"; fail "the figure of prefill"; }
[ "$(rows "| 8 | 48.5 | 48.5 | 168.86 | 108.73 | 76.59 |")" = 1 ] || { cat "$work/results/gpu-nvidia-test-figures.md"; fail "the table of Llama-2-13B"; }
mv "$work/results" "$work/kept"
suite 0 figures
[ "$(rows "not run")" -ge 12 ] || { cat "$work/results/gpu-nvidia-test-figures.md"; fail "figures without results"; }
rm -r "$work/results"
mv "$work/kept" "$work/results"

# A plug-in without CUTLASS is not asked for it.
mv "$work/results" "$work/kept"
FAKE_CUTLASS=absent ONLY=cutlass suite 0 test e2e
[ ! -s "$work/results/gpu-nvidia-test-test.jsonl" ] && [ ! -s "$work/results/gpu-nvidia-test-e2e.jsonl" ] || fail "CUTLASS is measured where it is not"
ONLY=cutlass suite 0 test e2e
[ "$(kept test '"status": 0')$(kept e2e '"status": 0')" = 11 ] || fail "CUTLASS is not measured where it is"
rm -r "$work/results"
mv "$work/kept" "$work/results"

# A program that is not there is no success.
rm "$work/results/gpu-nvidia-test-sanitize.jsonl"
FAKE_SANITIZER='' suite 76 sanitize
[ "$(kept sanitize '"step": "compute-sanitizer", "status": "skipped"')" = 1 ] || fail "a skipped stage is not recorded"
grep -q "not all is done, skipped: sanitize compute-sanitizer" "$work/log" || fail "nothing says at the end what was skipped"
suite 0 sanitize

# What must not pass.
rm -r "$work/results"
FAKE_TEXT="Something else entirely, and long." suite 1 test
grep -q "text: FAILED" "$work/log" || fail "another text passes"
suite 0 test
rm -r "$work/results"
FAKE_PERPLEXITY=17.6 suite 1 test
grep -q "perplexity: FAILED" "$work/log" || fail "another perplexity passes"
FAKE_PERPLEXITY=nan suite 1 test
grep -q "perplexity: FAILED" "$work/log" || fail "no perplexity passes"
FAKE_PERPLEXITY='' suite 1 test
mv "$work/build/backend_tests" "$work/build/away"
suite 1 test
grep -q "models: FAILED, there is no" "$work/log" || fail "a missing program passes"
mv "$work/build/away" "$work/build/backend_tests"

# A step that fails keeps its lines, and is done again.
rm -r "$work/results"
FAKE_BAD="gemv w8" suite 1 sweep
[ "$(kept sweep '"of": "gemv-w8", "partial": true')" = 1 ] && [ "$(kept sweep '"step": "gemv-w8", "status": 3')" = 1 ] || fail "the lines of a failed step are lost"
suite 0 sweep

# What the stage's end cuts short is left, not failed.
rm -r "$work/results"
FAKE_SLOW="gemv bf16" STAGE_SECONDS=7 suite 75 sweep
grep -q "gemv-bf16: left for the next time" "$work/log" || fail "a step that the stage's end cuts short is not left"
[ "$(kept sweep '"step": "gemv-bf16"')" = 0 ] || fail "a step that was cut short has a result"
suite 0 sweep
echo "gpu_suite keeps, resumes, compares and fails as it says"
